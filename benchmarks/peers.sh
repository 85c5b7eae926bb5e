#!/usr/bin/env bash
# Measure the libraries that need an environment of their own: `make bench-peers`. Exits 1 when a gate fails twice.
#
# Their newest versions need Python 3.13. CoinSpace is compiled and measured there too, so that both sides of
# a ratio run on one Python. Taken is the first argument or the machine's python3.14 or python3.13 if it has
# one of them with headers; otherwise the Python of Debian's next release, in a folder (root, network).
set -euo pipefail
cd "$(dirname "$0")/.."

skip() {
    echo "bench-peers: nothing measured: $1; or install Python 3.13 or 3.14 with its headers" >&2
    exit 2
}

. tests/newest_python.sh
FITS='import os, sys, sysconfig, venv
sys.exit(not ((3, 13) <= sys.version_info < (3, 15) and os.path.exists(sysconfig.get_path("include") + "/Python.h")))'
PYTHON=
for one in "$@" python3.14 python3.13; do
    if [ -z "$PYTHON" ] && command -v "$one" > /dev/null && "$one" -c "$FITS" 2> /dev/null; then
        PYTHON=$one
    fi
done
if [ -n "$PYTHON" ]; then
    ROOT=
    HOME_OF_PEERS=$PWD/build/peers
    inside() { timeout $LIMIT_S env -C "$@"; }
else
    unpack
    PYTHON=python3
    ROOT=$NEWEST
    HOME_OF_PEERS=/peers
fi
SOURCE=$HOME_OF_PEERS/coinspace
BIN=$HOME_OF_PEERS/venv/bin
copy_tree "$ROOT$SOURCE"
[ -e "$ROOT$BIN/python" ] || inside / $PYTHON -m venv "$HOME_OF_PEERS/venv"

echo "installing the libraries for $(inside / "$BIN/python" --version) …"
inside "$SOURCE" "$BIN/python" -m pip --quiet --quiet --disable-pip-version-check install --only-binary :all: \
    --require-hashes -r requirements/peers.txt || skip "requirements/peers.txt could not be installed: is there a network?"
echo "compiling ext/ …"
inside "$SOURCE" env PYTHONWARNINGS=ignore "$BIN/python" setup.py --quiet build_ext --inplace > build/log.txt 2>&1 ||
    { cat build/log.txt; exit 1; }

BENCH_COMMIT=$(git describe --always --dirty '--exclude=*')
export BENCH_COMMIT
mkdir -p build/bench
rm -rf "$ROOT$SOURCE/build/bench"
status=0
inside "$SOURCE" "$BIN/python" -m benchmarks.peers || status=$?
[ ! -e "$ROOT$SOURCE/build/bench" ] || cp -p "$ROOT$SOURCE"/build/bench/*.json build/bench/
exit $status
