#!/usr/bin/env bash
# Run unit, property and fuzz tests on the checked build, and the wheel, under the newest Python to be had.
#
# Debian's next release has it. Its packages are unpacked into build/newest, which is entered with
# chroot; a second run uses what the first one left. Where these packages cannot be had, one line says
# why, and nothing is tested: `make test-debug` tests the same build under this machine's Python.
set -euo pipefail
cd "$(dirname "$0")/.."

NEWEST=$PWD/build/newest
SOURCE=$NEWEST/coinspace
FEEDS=${COINSPACE_FEEDS:-$PWD/../shared/feeds}
# for each step
LIMIT_S=1800

skip() {
    echo "test-newest: nothing tested: $1"
    exit 0
}

# what is mounted for a command is gone with it
inside() {
    timeout $LIMIT_S unshare --mount sh -c 'mount -t proc proc "$0/proc" && mount --rbind /dev "$0/dev" &&
        if [ -d "$1" ]; then mkdir -p "$0/feeds" && mount --bind "$1" "$0/feeds"; fi && shift &&
        exec chroot "$0" env -C /coinspace COINSPACE_FEEDS=/feeds "$@"' "$NEWEST" "$FEEDS" "$@"
}

[ "$(id -u)" = 0 ] || skip "chroot needs root"
unshare --mount true 2> /dev/null || skip "nothing can be mounted here"
if ! command -v debootstrap > /dev/null; then
    { apt-get update -qq && apt-get install -y -qq --no-install-recommends debootstrap debian-archive-keyring; } \
        > /dev/null 2>&1 || skip "debootstrap is not installed"
fi

mkdir -p build
if [ ! -e "$NEWEST/.unpacked" ]; then
    rm -rf --one-file-system "$NEWEST"
    timeout $LIMIT_S unshare --mount debootstrap --force-check-gpg --variant=minbase --include=python3-venv,python3-dev,gcc,libc6-dev \
        testing "$NEWEST" > build/newest.log 2>&1 || skip "Debian's packages could not be fetched"
    touch "$NEWEST/.unpacked"
fi

# how this machine reaches the package index
for file in /etc/resolv.conf /etc/hosts /etc/pip.conf /etc/ssl/certs/ca-certificates.crt; do
    # with their permissions: pip's settings may hold a login
    [ ! -e $file ] || { mkdir -p "$NEWEST$(dirname $file)" && cp -pL --remove-destination $file "$NEWEST$file"; }
done
# what is built stays
mkdir -p "$SOURCE"
rm -df "$NEWEST/feeds"
find "$SOURCE" -type f ! -name '*.so' ! -path "$SOURCE/build/*" -delete
git ls-files -z | xargs -0 cp -p --parents -t "$SOURCE"
cp -rp --parents coinspace/endpoint/dashboard/dist "$SOURCE"

inside true || skip "/proc and /dev cannot be mounted here"
PIP="/venv/bin/python -m pip --quiet --quiet --disable-pip-version-check"
[ -e "$NEWEST/venv" ] || inside python3 -m venv /venv
# shellcheck disable=SC2086
inside $PIP install --only-binary :all: --require-hashes -r requirements/tools.txt ||
    skip "a package has no wheel for $(inside python3 --version)"
# shellcheck disable=SC2086
inside env COINSPACE_BUILD=debug PYTHONWARNINGS=ignore $PIP install --no-build-isolation --no-index --editable .
inside /venv/bin/python --version
inside /venv/bin/python -m pytest "$@"
inside tests/wheel.sh /venv/bin/python
