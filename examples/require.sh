#!/bin/sh
# Installs the Debian packages of those commands that are missing.
#
#   require.sh COMMAND:PACKAGE...
#
# Needs root, or sudo, only when something is missing. Writes to standard error only.
set -eu
PATH=$PATH:/usr/sbin:/sbin

missing=
for pair; do
    command -v "${pair%%:*}" >/dev/null 2>&1 || missing="$missing ${pair#*:}"
done
[ -n "$missing" ] || exit 0

if ! command -v apt-get >/dev/null 2>&1; then
    echo "error: these packages are missing:$missing; install them with your package manager" >&2
    exit 1
fi
if [ "$(id -u)" -eq 0 ]; then
    as_root=
elif command -v sudo >/dev/null 2>&1; then
    as_root=sudo
else
    echo "error: these packages are missing:$missing" >&2
    echo "  run as root: apt-get install$missing" >&2
    exit 1
fi

# The lists of packages may be old, or absent as in most container images.
install() {
    # shellcheck disable=SC2086 # one word a package
    $as_root env DEBIAN_FRONTEND=noninteractive \
        apt-get install --yes --quiet --no-install-recommends $missing >&2
}
echo "installing$missing" >&2
install || {
    $as_root apt-get update --quiet >&2 && install
} || {
    echo "error: cannot install$missing; run as root: apt-get install$missing" >&2
    exit 1
}
