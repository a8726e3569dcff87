#!/usr/bin/env bash
# The host's pointer code under AddressSanitizer: the tests of the CPU's operations, and of the files that are mapped. (Kernels: tools/sanitize.sh.)
#
#   tools/asan.sh [FILTER...]    unit tests whose names contain one of these (default: backend::cpu files::, and the operations' tests, and those of model files)
#
# The stable compiler takes the sanitizer's flag with RUSTC_BOOTSTRAP=1; everything is built in target/asan and kept. Status 0: nothing found.
set -euo pipefail
if [ "$(uname -sm)" != "Linux x86_64" ]; then
    echo "tools/asan.sh: needs Linux on x86-64; this is $(uname -sm)" >&2
    exit 1
fi
cd "$(dirname "$0")/.."
export RUSTC_BOOTSTRAP=1 RUSTFLAGS="-Zsanitizer=address" COLLOQUY_CUDA_ARCHS=none CARGO_TARGET_DIR=target/asan
# Buffers that live as long as the process (the pool's scratch memory) are no leaks.
export ASAN_OPTIONS=detect_leaks=0
target=x86_64-unknown-linux-gnu
[ $# -gt 0 ] || set -- backend::cpu files::
cargo test --locked --target "$target" --lib -- "$@"
cargo test --locked --target "$target" --test ops
cargo test --locked --target "$target" --test model files::
