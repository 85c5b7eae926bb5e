#!/usr/bin/env bash
# Run unit, property and fuzz tests on the checked build, and the wheel, under the newest Python to be had.
#
# Debian's next release has it. Its packages are unpacked into build/newest, which is entered with
# chroot; a second run uses what the first one left. Where that is not to be had, one line says why
# and the checked build is tested under this Python instead.
set -euo pipefail
cd "$(dirname "$0")/.."

NEWEST=$PWD/build/newest
SOURCE=$NEWEST/coinspace
FEEDS=${COINSPACE_FEEDS:-$PWD/../shared/feeds}
# for each step
LIMIT_S=900

instead() {
    echo "test-newest: $1; testing under $(.venv/bin/python --version) instead"
    exec make --no-print-directory test-debug
}

# what is mounted for a command is gone with it
inside() {
    timeout $LIMIT_S unshare --mount sh -c 'mount -t proc proc "$0/proc" && mount --rbind /dev "$0/dev" &&
        if [ -d "$1" ]; then mkdir -p "$0/feeds" && mount --bind "$1" "$0/feeds"; fi && shift &&
        exec chroot "$0" env -C /coinspace COINSPACE_FEEDS=/feeds "$@"' "$NEWEST" "$FEEDS" "$@"
}

[ "$(id -u)" = 0 ] || instead "chroot needs root"
if ! command -v debootstrap > /dev/null; then
    { apt-get update -qq && apt-get install -y -qq --no-install-recommends debootstrap debian-archive-keyring; } \
        > /dev/null 2>&1 || instead "debootstrap is not installed"
fi

mkdir -p build
if [ ! -e "$NEWEST/.unpacked" ]; then
    rm -rf --one-file-system "$NEWEST"
    timeout $LIMIT_S unshare --mount debootstrap --force-check-gpg --variant=minbase --include=python3-venv,python3-dev,python3.13-venv,python3.13-dev,gcc,libc6-dev \
        testing "$NEWEST" > build/newest.log 2>&1 || instead "Debian's packages could not be fetched"
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

inside true || instead "nothing can be mounted here"
PIP="/venv/bin/python -m pip --quiet --disable-pip-version-check"
# shellcheck disable=SC2086
{
    { [ -e "$NEWEST/venv" ] || inside python3 -m venv /venv; } &&
        inside $PIP install --only-binary :all: --require-hashes -r requirements/tools.txt &&
        inside env COINSPACE_BUILD=debug PYTHONWARNINGS=ignore $PIP install --no-build-isolation \
            --no-index --editable .
} || instead "a package has no wheel for $(inside python3 --version)"
inside /venv/bin/python --version
inside /venv/bin/python -m pytest "$@"
inside tests/wheel.sh /venv/bin/python /usr/bin/python3.13
