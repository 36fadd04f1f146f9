#!/bin/sh
# Runs the fuzz targets, on stable Rust, and fails with the first finding.
#
#   fuzz/run.sh [SECONDS [TARGET...]]     300 seconds of each target unless told otherwise
#
# Inputs that reach new code are kept in fuzz/corpus/TARGET; a finding is written to fuzz/findings.
# Run a program again on a finding: target/fuzz/release/fuzz_TARGET FILE
set -eu
cd "$(dirname "$0")"
seconds=${1:-300}
[ $# -eq 0 ] || shift
[ $# -gt 0 ] || set -- bitswap_message dag_pb unixfs_data car content_path

RUSTC_WRAPPER=$PWD/instrument.sh cargo build --quiet --release --target-dir ../target/fuzz
mkdir -p findings
for target; do
    mkdir -p "corpus/$target"
    # Real inputs to start from, where the published ones are there.
    fixtures=${IPFS_EXEC_FIXTURES:-../../shared/fixtures}
    seeds=
    [ "$target" != car ] || [ ! -d "$fixtures" ] || seeds=$(find "$fixtures" -name '*.car' -size -64k -exec dirname {} \; | sort -u)
    echo "== $target"
    # shellcheck disable=SC2086 # one word a directory
    "../target/fuzz/release/fuzz_$target" "corpus/$target" $seeds -artifact_prefix=findings/ \
        -max_total_time="$seconds" -timeout=10 -rss_limit_mb=1024 -max_len=65536 -print_final_stats=1
done
