#!/usr/bin/env bash
# Builds what tools/gpu-check.sh runs on a machine with a GPU but without cargo and network: one stripped file of at most 50 MiB, target/gpu/gpu-check, that is
# the program and the tests of the kernels, the engine and the fixtures. Beside it the machine needs tools/gpu-check.sh and tests/fixtures.
#
# Needs nvcc (tools/cuda_toolchain.sh). COLLOQUY_CUDA_ARCHS replaces the architectures. `tools/gpu-pack.sh emulator` builds, in the dev profile, the same file with
# the emulator in it, to try tools/gpu-check.sh without a GPU: DEVICE=emulator tools/gpu-check.sh all.
set -euo pipefail
cd "$(dirname "$0")/.."

out=target/gpu
select=(--release --features gpu-check)
[ "${1:-}" = emulator ] && select=(--features gpu-check,emulator)
rm -rf "$out"
mkdir -p "$out"

# One JSON message a line; that of the test program names its executable.
executable=$(cargo test "${select[@]}" --test gpu_check --locked --no-run --message-format=json-render-diagnostics |
    python3 -c '
import json, sys
messages = [json.loads(line) for line in sys.stdin]
print(*[m["executable"] for m in messages if m.get("executable") and m["target"]["name"] == "gpu_check"])
')
strip -o "$out/gpu-check" "$executable"

ls -l "$out"
if [ "$(stat -c %s "$out/gpu-check")" -gt $((50 << 20)) ]; then
    echo "error: $out/gpu-check is larger than 50 MiB; COLLOQUY_CUDA_ARCHS=sm_90a is an H100 alone" >&2
    exit 1
fi
