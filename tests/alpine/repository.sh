#!/bin/sh
# Makes Alpine packages and a repository for tests, in the format of version 2.
#
#   repository.sh package DIRECTORY NAME VERSION TREE   adds a package with the files of TREE
#   repository.sh index DIRECTORY                       writes the index
#
# DIRECTORY is REPOSITORY/ARCH. Variables: DEPENDS and PROVIDES are lists of names, OWNER is the UID:GID of the
# files, MODE is a change of their modes such as `u-r`, and SCRIPT is the type of a script that the package has, such as `post-install`.
set -eu
export LC_ALL=C

directory=$2
mkdir -p "$directory"
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

# Packs a tree as abuild does: names have no leading `./`, and entries have pax headers, here because of the
# fraction in the time.
part() (
    owner=${2:-0:0}
    cd "$1"
    find . -mindepth 1 -maxdepth 1 -printf '%P\n' |
        tar --create --blocking-factor=1 --format=posix --sort=name --mtime=@0.5 --numeric-owner \
            --pax-option='delete=atime,delete=ctime' \
            --owner="${owner%%:*}" --group="${owner##*:}" ${3:+--mode="$3"} --files-from=-
)

# Packs a tree without the end of the archive, so that the next part continues it.
open_part() {
    part "$1" | head -c -1024
}

case $1 in
package)
    name=$3 version=$4 tree=$5
    mkdir "$work/signature" "$work/control"
    echo 'not a signature' >"$work/signature/.SIGN.RSA.stand-in.rsa.pub"
    part "$tree" "${OWNER:-0:0}" "${MODE:-}" | gzip -n >"$work/data.gz"
    {
        echo "pkgname = $name"
        echo "pkgver = $version"
        for depend in ${DEPENDS:-}; do echo "depend = $depend"; done
        echo "datahash = $(sha256sum <"$work/data.gz" | cut -c 1-64)"
    } >"$work/control/.PKGINFO"
    [ -z "${SCRIPT:-}" ] || echo '#!/bin/sh' >"$work/control/.$SCRIPT"
    open_part "$work/signature" | gzip -n >"$work/signature.gz"
    open_part "$work/control" | gzip -n >"$work/control.gz"
    cat "$work/signature.gz" "$work/control.gz" "$work/data.gz" >"$directory/$name-$version.apk"
    {
        echo "C:Q1$(busybox sha1sum <"$work/control.gz" | cut -c 1-40 | busybox xxd -r -p | base64)"
        echo "P:$name"
        echo "V:$version"
        echo "S:$(wc -c <"$directory/$name-$version.apk")"
        [ -z "${DEPENDS:-}" ] || echo "D:$DEPENDS"
        [ -z "${PROVIDES:-}" ] || echo "p:$PROVIDES"
        echo
    } >>"$directory/.index"
    ;;
index)
    mkdir "$work/signature" "$work/index"
    echo 'not a signature' >"$work/signature/.SIGN.RSA.stand-in.rsa.pub"
    cp "$directory/.index" "$work/index/APKINDEX"
    echo stand-in >"$work/index/DESCRIPTION"
    open_part "$work/signature" | gzip -n >"$work/signature.gz"
    part "$work/index" | gzip -n >"$work/index.gz"
    cat "$work/signature.gz" "$work/index.gz" >"$directory/APKINDEX.tar.gz"
    ;;
esac
