#!/bin/sh
# Called by cargo in place of rustc: counts the branches of the code under test, and of that alone.
rustc=$1
shift
case " $* " in
*' --crate-name ipfs_exec_node '* | *' --crate-name fuzz_'*)
    exec "$rustc" "$@" -Cpasses=sancov-module -Ccodegen-units=1 \
        -Cllvm-args=-sanitizer-coverage-level=4 \
        -Cllvm-args=-sanitizer-coverage-inline-8bit-counters \
        -Cllvm-args=-sanitizer-coverage-pc-table \
        -Cllvm-args=-sanitizer-coverage-trace-compares
    ;;
*) exec "$rustc" "$@" ;;
esac
