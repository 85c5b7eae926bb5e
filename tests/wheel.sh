#!/usr/bin/env bash
# Build the source archive, from it a wheel for each Python given, and run each in a clean environment.
# The page must have been built.
set -euo pipefail
cd "$(dirname "$0")/.."

FOLDER=$PWD/build/wheel
PIP="-m pip --quiet --disable-pip-version-check"

rm -rf "$FOLDER"
mkdir -p "$FOLDER"
PYTHONWARNINGS=ignore "$1" -c 'import sys; from setuptools import build_meta; build_meta.build_sdist(sys.argv[1])' \
    "$FOLDER" > "$FOLDER/log.txt" 2>&1 || { cat "$FOLDER/log.txt"; exit 1; }
for python in "$@"; do
    name=$("$python" -c 'import sys; print("python%d.%d" % sys.version_info[:2])')
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
