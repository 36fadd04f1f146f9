#!/bin/sh
# Makes the tree of the busybox image.
#
#   tree.sh BUSYBOX DIRECTORY
#
# /bin/busybox.static is the program, /bin/busybox and one name for each applet are links to it, and
# /sbin/init passes its arguments on to it. Modes do not depend on the umask.
set -eu

here=$(cd "$(dirname "$0")" && pwd)
busybox=$1
directory=$2

mkdir "$directory/bin" "$directory/sbin"
cp "$busybox" "$directory/bin/busybox.static"
cp "$here/init" "$directory/sbin/init"
chmod 755 "$directory/bin" "$directory/sbin" "$directory/bin/busybox.static" "$directory/sbin/init"

ln -s busybox.static "$directory/bin/busybox"
"$directory/bin/busybox.static" --list | while read -r applet; do
    [ "$applet" = busybox ] || ln -s busybox "$directory/bin/$applet"
done
