#!/bin/sh
# Installs what the tests need and runs all of them: formatting, lints, licences, unit tests,
# documentation tests, and the end-to-end tests of the built program. As root it runs the latter a
# second time as an ordinary user, because the sandbox is made in another way there.
#
# With CI=true nothing may be skipped. Variables: IPFS_EXEC_FIXTURES (published CARs and records,
# ../shared/fixtures where that is there), IPFS_EXEC_KILLS (how often an import is killed), IPFS_EXEC_PEERS
# (where tests/peers/install.sh has put Kubo and Helia, which this does otherwise), IPFS_EXEC_VM (where
# tests/vm/install.sh has put a kernel, likewise).
set -eu

cd "$(dirname "$0")/.."
project=$(pwd)
user=ipfs-exec-test

step() { printf '\n== %s\n' "$*"; }
fail() {
    echo "error: $*" >&2
    exit 1
}
# What is skipped is said, and is no option where nobody reads it.
skip() {
    [ "${CI:-}" != true ] || fail "$*"
    echo "skipped: $*"
}

./examples/require.sh bwrap:bubblewrap busybox:busybox-static cc:gcc cc:libc6-dev make:make \
    strace:strace ip:iproute2 tc:iproute2 npm:npm fusermount3:fuse3 \
    unshare:util-linux runuser:util-linux useradd:passwd python3:python3 \
    qemu-system-x86_64:qemu-system-x86 cpio:cpio dpkg-deb:dpkg ldd:libc-bin \
    openssl:openssl /lib/systemd/systemd:systemd dbus-daemon:dbus-daemon \
    mkfs.ext4:e2fsprogs mkfs.xfs:xfsprogs mkfs.btrfs:btrfs-progs
[ ! -d "${CARGO_HOME:-${HOME:-/}/.cargo}/bin" ] || PATH=${CARGO_HOME:-$HOME/.cargo}/bin:$PATH
command -v cargo >/dev/null 2>&1 || fail 'cargo is missing; install a Rust toolchain from https://rustup.rs'

if [ -n "${IPFS_EXEC_FIXTURES:-}" ]; then
    [ -d "$IPFS_EXEC_FIXTURES/vectors" ] || fail "no fixtures at $IPFS_EXEC_FIXTURES"
elif [ -d "$project/../shared/fixtures/vectors" ]; then
    IPFS_EXEC_FIXTURES=$project/../shared/fixtures
else
    echo 'skipped: published CARs and records; IPFS_EXEC_FIXTURES names the directory that holds them'
fi
[ -z "${IPFS_EXEC_FIXTURES:-}" ] || export IPFS_EXEC_FIXTURES

step 'formatting'
if cargo fmt --version >/dev/null 2>&1; then
    cargo fmt --all --check
else
    skip 'rustfmt is missing; install it: rustup component add rustfmt'
fi

step 'lints'
if cargo clippy --version >/dev/null 2>&1; then
    cargo clippy --workspace --all-targets --locked --quiet -- -D warnings
else
    skip 'clippy is missing; install it: rustup component add clippy'
fi

step 'documentation'
RUSTDOCFLAGS='-D warnings' cargo doc --workspace --no-deps --locked --quiet

step 'licences and advisories'
if cargo deny --version >/dev/null 2>&1; then
    cargo deny --locked check bans licenses sources
    if cargo deny fetch db >/dev/null 2>&1; then
        cargo deny --locked check advisories
    else
        echo 'skipped: the advisory database cannot be fetched'
    fi
else
    echo 'skipped: cargo-deny is not installed (cargo install --locked cargo-deny)'
fi

step 'build'
# All of it at once, so that dependencies are compiled for one set of features.
cargo build --workspace --all-targets --locked
cargo test --workspace --locked --no-run
target=$(cargo metadata --no-deps --format-version 1 --locked |
    python3 -c 'import json, sys; print(json.load(sys.stdin)["target_directory"])')
IPFS_EXEC_BIN=$target/debug/ipfs-exec
export IPFS_EXEC_BIN

step 'other IPFS nodes'
IPFS_EXEC_PEERS=${IPFS_EXEC_PEERS:-$target/peers}
./tests/peers/install.sh "$IPFS_EXEC_PEERS"
export IPFS_EXEC_PEERS

step 'a kernel for virtual machines'
IPFS_EXEC_VM=${IPFS_EXEC_VM:-$target/vm}
./tests/vm/install.sh "$IPFS_EXEC_VM"
export IPFS_EXEC_VM

step "tests as $(id -un)"
if cargo nextest --version >/dev/null 2>&1; then
    profile=default
    [ "${CI:-}" != true ] || profile=ci
    cargo nextest run --workspace --locked --profile "$profile"
    cargo test --workspace --locked --doc --quiet
else
    cargo test --workspace --locked
fi

[ "$(id -u)" -eq 0 ] || exit 0

# The user may not be able to read this directory, so that everything is copied to one of its own.
# It does not run the tests with other nodes, which do not depend on the user; those in a virtual machine,
# where both kinds of user were tested; and those with disks, which only root may mount.
step 'end-to-end tests as an ordinary user'
end_to_end=$(cargo test --workspace --locked --no-run --message-format=json 2>/dev/null |
    python3 -c '
import json, sys
for line in sys.stdin:
    message = json.loads(line)
    if message.get("executable") and message["target"]["name"] == "end_to_end":
        print(message["executable"])')
[ -x "$end_to_end" ] || fail 'cannot find the end-to-end tests'

place=$(mktemp -d)
made_user=
clean() {
    rm -rf "$place"
    [ -z "$made_user" ] || userdel "$user" >/dev/null 2>&1 || :
}
trap clean EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

if ! id "$user" >/dev/null 2>&1; then
    useradd --system --no-create-home --home-dir /nonexistent --shell /bin/sh "$user"
    made_user=yes
fi
chmod 755 "$place"
cp "$end_to_end" "$place/end_to_end"
cp "$IPFS_EXEC_BIN" "$place/ipfs-exec"
cp "$target/debug/mdns_flood" "$target/debug/name_server" "$target/debug/port_mapper" \
    "$target/debug/compute" "$place"
if [ -n "${IPFS_EXEC_FIXTURES:-}" ]; then
    cp -r "$IPFS_EXEC_FIXTURES" "$place/fixtures"
fi
cp -r examples "$place/examples"
chmod -R u+rwX,go+rX "$place"
mkdir "$place/home" "$place/tmp"
chown "$user:" "$place/home" "$place/tmp"
cd "$place"
runuser -u "$user" -- env -i PATH="/usr/local/bin:/usr/bin:/bin" CI="${CI:-}" RUST_BACKTRACE=1 \
    HOME="$place/home" TMPDIR="$place/tmp" \
    IPFS_EXEC_BIN="$place/ipfs-exec" IPFS_EXEC_HELPERS="$place" \
    ${IPFS_EXEC_FIXTURES:+IPFS_EXEC_FIXTURES="$place/fixtures"} \
    IPFS_EXEC_EXAMPLES="$place/examples" IPFS_EXEC_KILLS="${IPFS_EXEC_KILLS:-200}" \
    "$place/end_to_end" --test-threads=2 --skip network::interop:: --skip unified:: --skip file_systems::
