#!/bin/sh
# From a fresh clone to a first result: builds ipfs-exec and a root file system, runs a program in
# it, and shows what came out. Installs what is missing, with sudo when not root.
#
# Everything lives in a repository of its own, which is gone afterwards.
set -eu

project=$(cd "$(dirname "$0")/.." && pwd)

say() { printf '\n%s\n' "$*" >&2; }
fail() {
    echo "error: $*" >&2
    exit 1
}

"$project/examples/require.sh" bwrap:bubblewrap busybox:busybox-static make:make cc:gcc cc:libc6-dev
[ ! -d "${CARGO_HOME:-${HOME:-/}/.cargo}/bin" ] || PATH=${CARGO_HOME:-$HOME/.cargo}/bin:$PATH
command -v cargo >/dev/null 2>&1 || fail 'cargo is missing; install a Rust toolchain from https://rustup.rs'

# A clone that belongs to someone else can still be tried.
if [ -z "${CARGO_TARGET_DIR:-}" ]; then
    CARGO_TARGET_DIR=$project/target
    if ! mkdir -p "$CARGO_TARGET_DIR/release" 2>/dev/null || [ ! -w "$CARGO_TARGET_DIR/release" ]; then
        CARGO_TARGET_DIR=${XDG_CACHE_HOME:-$HOME/.cache}/ipfs-exec/target
    fi
fi
export CARGO_TARGET_DIR

say "Building ipfs-exec in $CARGO_TARGET_DIR"
(cd "$project" && cargo build --release --locked --package ipfs-exec)
ipfs_exec=$CARGO_TARGET_DIR/release/ipfs-exec

demo=$(mktemp -d)
clean() {
    chmod -R u+rwX "$demo" 2>/dev/null || :
    rm -rf "$demo"
}
trap clean EXIT
trap 'exit 130' INT
trap 'exit 143' TERM
export IPFS_EXEC_PATH="$demo/repository"

say 'Making a root file system of busybox'
"$project/examples/images/busybox/build.sh" "$demo/rootfs.tar.gz"
rootfs=$("$ipfs_exec" add -Q "$demo/rootfs.tar.gz")
echo "rootfs  $rootfs" >&2

mkdir "$demo/input"
echo 'hello from the input' >"$demo/input/hello"
input=$("$ipfs_exec" add -Q "$demo/input")
echo "input   $input" >&2

say "Running: sh -c 'tr a-z A-Z < /input/hello > /output/shout'"
output=$("$ipfs_exec" run "$rootfs" "$input" sh -c 'tr a-z A-Z < /input/hello > /output/shout')
echo "output  $output" >&2

say "ipfs-exec cat $output/shout"
"$ipfs_exec" cat "$output/shout"
