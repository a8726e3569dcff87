#!/usr/bin/env bash
# Builds what tools/gpu-check.sh runs on a machine with a GPU but without cargo and network: the program and the tests of the kernels,
# stripped, in target/gpu (less than 50 MiB). Needs nvcc: tools/cuda_toolchain.sh. Each file carries the kernels, so they are built for one architecture:
# COLLOQUY_CUDA_ARCHS, sm_90a (H100, H200) unless given; sm_80 is an A100.
set -euo pipefail
cd "$(dirname "$0")/.."

export COLLOQUY_CUDA_ARCHS=${COLLOQUY_CUDA_ARCHS:-sm_90a}
out=target/gpu
tests=(kernels engine_kernels fixtures_kernels)
rm -rf "$out"
mkdir -p "$out"

cargo build --release --locked
strip -o "$out/colloquy" target/release/colloquy

select=()
for name in "${tests[@]}"; do select+=(--test "$name"); done
# One JSON message a line; those of test programs name their executable.
cargo test --release --locked --no-run --message-format=json "${select[@]}" |
    python3 -c '
import json, sys
for line in sys.stdin:
    message = json.loads(line)
    if message.get("executable") and message["target"]["kind"] == ["test"]:
        print(message["target"]["name"], message["executable"])
' | while read -r name executable; do strip -o "$out/test-$name" "$executable"; done

size=$(du -sm "$out" | cut -f1)
ls -l "$out"
if [ "$size" -gt 50 ]; then
    echo "error: $out has $size MiB, more than 50" >&2
    exit 1
fi
