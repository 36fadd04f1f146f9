#!/bin/sh
# Makes a root file system of one static busybox, without a run of ipfs-exec.
#
#   build.sh [OUTPUT]      OUTPUT is rootfs.tar.gz beside this script unless given
#
# The tree is that of the image `busybox`. The same busybox gives the same bytes, on every machine and in
# every build: entries are sorted, times are zero, owners are root, modes do not depend on the umask.
#
# BUSYBOX names the program to pack; otherwise the one of Debian's busybox-static is taken.
set -eu
export LC_ALL=C

here=$(cd "$(dirname "$0")" && pwd)
output=${1:-$here/rootfs.tar.gz}

is_static() {
    ldd "$1" 2>&1 | grep -q -e 'not a dynamic executable' -e 'statically linked'
}

busybox=${BUSYBOX:-}
if [ -z "$busybox" ]; then
    "$here/../../require.sh" busybox:busybox-static
    busybox=$(command -v busybox)
fi
if ! is_static "$busybox"; then
    echo "error: $busybox is not static; install busybox-static or set BUSYBOX" >&2
    exit 1
fi

temporary=$(mktemp -d)
trap 'rm -rf "$temporary" "$output.part.$$"' EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

mkdir "$temporary/tree"
"$here/tree.sh" "$busybox" "$temporary/tree"

# Into a temporary file first: an interrupted build leaves no half of an archive.
tar --create --sort=name --mtime=@0 --owner=0 --group=0 --numeric-owner --format=ustar \
    --directory="$temporary/tree" bin sbin >"$temporary/rootfs.tar"
gzip -n -9 <"$temporary/rootfs.tar" >"$output.part.$$"
mv "$output.part.$$" "$output"
