#!/bin/sh
# Makes a root file system of one static busybox.
#
#   build.sh [OUTPUT]      OUTPUT is rootfs.tar.gz beside this script unless given
#
# /bin/busybox, a link in /bin for each of its applets, and /sbin/init, which hands its arguments
# to busybox. The same busybox gives the same bytes, on every machine and in every build: entries
# are sorted, times are zero, owners are root, modes do not depend on the umask.
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

tree=$(mktemp -d)
trap 'rm -rf "$tree"' EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

mkdir "$tree/bin" "$tree/sbin"
cp "$busybox" "$tree/bin/busybox"
"$tree/bin/busybox" --list | while read -r applet; do
    [ "$applet" = busybox ] || ln -s busybox "$tree/bin/$applet"
done
cat >"$tree/sbin/init" <<'INIT'
#!/bin/busybox sh
exec /bin/busybox "$@"
INIT
chmod 755 "$tree/bin" "$tree/sbin" "$tree/bin/busybox" "$tree/sbin/init"

# Into a temporary file first: an interrupted build leaves no half of an archive.
tar --create --sort=name --mtime=@0 --owner=0 --group=0 --numeric-owner --format=ustar \
    --directory="$tree" bin sbin >"$tree/rootfs.tar"
gzip -n -9 <"$tree/rootfs.tar" >"$output.part.$$"
mv "$output.part.$$" "$output"
