#!/usr/bin/env bash
# Run unit, property and fuzz tests on the checked build, and the wheel, under the newest Python to be had.
#
# Where Debian's packages cannot be had, one line says why, and nothing is tested: `make test-debug`
# tests the same build under this machine's Python.
set -euo pipefail
cd "$(dirname "$0")/.."

skip() {
    echo "test-newest: nothing tested: $1"
    exit 0
}

. tests/newest_python.sh
SOURCE=/coinspace
unpack
copy_tree "$NEWEST$SOURCE"
cp -rp --parents coinspace/endpoint/dashboard/dist "$NEWEST$SOURCE"

PIP="/venv/bin/python -m pip --quiet --quiet --disable-pip-version-check"
[ -e "$NEWEST/venv" ] || inside / python3 -m venv /venv
# shellcheck disable=SC2086
inside $SOURCE $PIP install --only-binary :all: --require-hashes -r requirements/tools.txt ||
    skip "a package has no wheel for $(inside / python3 --version)"
# shellcheck disable=SC2086
inside $SOURCE env COINSPACE_BUILD=debug PYTHONWARNINGS=ignore $PIP install --no-build-isolation --no-index --editable .
inside $SOURCE /venv/bin/python --version
inside $SOURCE /venv/bin/python -m pytest "$@"
inside $SOURCE tests/wheel.sh /venv/bin/python
