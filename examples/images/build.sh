#!/bin/sh
# Builds an example image by runs of ipfs-exec, pins it, and prints its content path.
#
#   build.sh busybox|apk|deb
#
# IPFS_EXEC names the program, `ipfs-exec` unless set. ALPINE_REPOSITORY is a content path or a local
# directory with ARCH/APKINDEX.tar.gz; `apk` needs it, and `busybox` takes its program from there if it is
# set. BUSYBOX names the static busybox of this machine.
set -eu

name=$1
images=$(cd "$(dirname "$0")" && pwd)
examples=$images/..
ipfs_exec=${IPFS_EXEC:-ipfs-exec}
repository=${ALPINE_REPOSITORY:-}

fail() {
    echo "error: $*" >&2
    exit 1
}

command -v "$ipfs_exec" >/dev/null 2>&1 ||
    fail "cannot find the program $ipfs_exec; call \`make install\`, or set IPFS_EXEC to its absolute path"

temporary=$(mktemp -d)
input=
clean() {
    # `mkdir` pins what it makes, and no other run needs this input.
    [ -z "$input" ] || "$ipfs_exec" pin rm "$input" >/dev/null || :
    rm -rf "$temporary"
}
trap clean EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

# Makes the input of the recipe: the recipes, and the given pairs of a name and a content path.
make_input() {
    recipes=$("$ipfs_exec" add -Q --pin=false --ignore '*.tar.gz' "$images")
    input=$("$ipfs_exec" mkdir images "$recipes" "$@")
}

# Runs the recipe in the root file system $1. Prints the CID of the output.
run() {
    "$ipfs_exec" run -T --pin=false "$1" "$input" sh "/input/images/$name/recipe" "$arch" \
        >"$temporary/output" || fail "cannot build $name"
    cat "$temporary/output"
}

# The content path of an image that is already built.
built() {
    cat "$examples/$1" 2>/dev/null || fail "$name needs the image $1; call \`make -C examples $1\`"
}

case $repository in
/ipfs/* | /ipns/*) ;;
/*) [ -d "$repository" ] || fail "ALPINE_REPOSITORY is $repository, which is no directory" ;;
esac

arch=$(cat "$examples/alpine_arch")
added=
if [ -n "$repository" ] && [ "$name" != deb ] && [ -d "$repository" ]; then
    added=$("$ipfs_exec" add -Q --pin=false "$repository")
    repository=$added
fi

case $name in
busybox)
    "$images/busybox/build.sh" "$temporary/seed.tar.gz"
    if [ -n "$repository" ]; then
        make_input repository "$repository"
    else
        make_input
    fi
    # The first run packs with the busybox of this machine, the second with the busybox of the image. So the
    # image depends only on the busybox in it.
    first=$(run "$temporary/seed.tar.gz")
    output=$(run "$first/rootfs.tar.gz")
    ;;
apk)
    [ -n "$repository" ] ||
        fail 'apk needs an Alpine repository; set ALPINE_REPOSITORY as examples/README.md says'
    rootfs=$(built busybox)
    make_input rootfs.tar.gz "$rootfs" repository "$repository"
    output=$(run "$rootfs")
    ;;
deb)
    rootfs=$(built busybox)
    make_input rootfs.tar.gz "$rootfs"
    output=$(run "$rootfs")
    ;;
*) fail "unknown image $name; the images are busybox, apk and deb" ;;
esac

"$ipfs_exec" pin add --name "examples/$name" "$output" >/dev/null
if [ -n "$added" ]; then
    "$ipfs_exec" pin add --name examples/alpine_repository "$added" >/dev/null
    echo "the Alpine repository has the CID $added" >&2
fi
echo "$output/rootfs.tar.gz"
