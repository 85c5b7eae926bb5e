#!/usr/bin/env bash
# Build the source archive with the Python given, and from it a wheel for this Python and for each newer
# one on this machine. Run each wheel in a clean environment. The page must have been built.
set -euo pipefail
cd "$(dirname "$0")/.."

FOLDER=$PWD/build/wheel
PIP="-m pip --quiet --quiet --disable-pip-version-check"

rm -rf "$FOLDER"
mkdir -p "$FOLDER"
PYTHONWARNINGS=ignore "$1" -c 'import sys; from setuptools import build_meta; build_meta.build_sdist(sys.argv[1])' \
    "$FOLDER" > "$FOLDER/log.txt" 2>&1 || { cat "$FOLDER/log.txt"; exit 1; }
# Print the Python 3.N of this machine that works: one that pyenv has installed, or of PATH.
found() {
    for python in "${PYENV_ROOT:-$HOME/.pyenv}/versions/3.$1".*/bin/python "$(command -v "python3.$1")"; do
        if "$python" -c 'import venv' 2> /dev/null; then
            echo "$python"
            return
        fi
    done
}

first=$("$1" -c 'import sys; print(sys.version_info[1])')
for minor in $(seq "$first" 14); do
    name=python3.$minor
    python=$1
    [ "$minor" = "$first" ] || python=$(found "$minor")
    if [ -z "$python" ]; then
        echo "$name: not on this machine"
        continue
    fi
    "$python" -m venv "$FOLDER/$name"
    clean=$FOLDER/$name/bin/python
    # the locked versions, which the wheel then finds
    # shellcheck disable=SC2086
    {
        "$clean" $PIP install --only-binary :all: --require-hashes -r requirements/install.txt
        "$clean" $PIP wheel --no-build-isolation --no-deps --wheel-dir "$FOLDER/$name" "$FOLDER"/coinspace-*.tar.gz
        "$clean" $PIP install --no-index "$FOLDER/$name"/coinspace-*.whl
    }
    # not where the sources are
    cd "$FOLDER"
    echo "$name: $("$FOLDER/$name/bin/coinspace" --version)"
    "$clean" -c '
import importlib, pkgutil
import coinspace
from coinspace.endpoint.dashboard.build import DIST, FOLDER

for module in pkgutil.walk_packages(coinspace.__path__, "coinspace."):
    if not module.name.endswith("__main__"):
        importlib.import_module(module.name)
assert "site-packages" in str(FOLDER), FOLDER
for page in ("index.html", "docs.html"):
    assert (DIST / page).is_file(), f"{page} is not in the wheel"
'
    cd - > /dev/null
done
