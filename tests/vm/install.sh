#!/bin/sh
# Puts a kernel of Debian for virtual machines into DIR, without installing it. What is there already
# stays.
set -eu
[ $# -eq 1 ] || { echo "usage: $0 DIR" >&2; exit 2; }
mkdir -p "$1"
cd "$1"
[ ! -e vmlinuz ] || exit 0
meta=linux-image-cloud-$(dpkg --print-architecture)
package() { apt-cache depends "$meta" | sed -n 's/.*Depends: \(linux-image-[0-9].*\)/\1/p' | head -n 1; }
download() { [ -n "$(package)" ] && apt-get download --quiet "$(package)" >&2; }
# The lists of packages may be old, or absent as in most container images.
download || { apt-get update --quiet >&2 && download; }
dpkg-deb --extract linux-image-*.deb unpacked
mv unpacked/boot/vmlinuz-* vmlinuz
rm -r unpacked linux-image-*.deb
