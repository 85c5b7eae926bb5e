# Sourced by scripts that need a newer Python than this machine's: tests/newest.sh, benchmarks/peers.sh.
#
# Debian's next release has it. Its packages are unpacked into build/newest, which is entered with
# chroot; a second run uses what the first one left. The script defines `skip REASON`, which reports and exits.
# shellcheck shell=bash

NEWEST=$PWD/build/newest
FEEDS=${COINSPACE_FEEDS:-$PWD/../shared/feeds}
# for each step
LIMIT_S=1800

# run a command in a folder of the other system; what is mounted for it is gone with it
inside() {
    timeout $LIMIT_S unshare --mount sh -c 'mount -t proc proc "$0/proc" && mount --rbind /dev "$0/dev" &&
        if [ -d "$1" ]; then mkdir -p "$0/feeds" && mount --bind "$1" "$0/feeds"; fi && shift &&
        folder=$1 && shift && exec chroot "$0" env -C "$folder" COINSPACE_FEEDS=/feeds "$@"' "$NEWEST" "$FEEDS" "$@"
}

# unpack the other system, if it is not there yet
unpack() {
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
    rm -df "$NEWEST/feeds"
    inside / true || skip "/proc and /dev cannot be mounted here"
}

# copy this tree into a folder of the other system; what is built there stays
copy_tree() {
    mkdir -p "$1"
    find "$1" -type f ! -name '*.so' ! -path "$1/build/*" -delete
    git ls-files -z | xargs -0 cp -p --parents -t "$1"
}
