#!/usr/bin/env bash
# Builds what tools/gpu-check.sh runs on a machine with a GPU but without cargo and network, in target/gpu:
#   gpu-check   one stripped file: the program and the tests of the kernels, the engine and the fixtures
#   micro       tools/micro.cu for sm_90a
#   commit      the commit they are built from
# together at most 44 MiB, since the files of the repository travel with them and 64 MiB are carried at most. Beside them the machine needs
# tools/gpu-check.sh, tools/gpu-reference.py and tests/fixtures.
#
# Needs nvcc (tools/cuda_toolchain.sh). COLLOQUY_CUDA_ARCHS replaces the architectures. `tools/gpu-pack.sh emulator` builds, in the dev profile,
# gpu-check with the emulator in it, to try tools/gpu-check.sh without a GPU: DEVICE=emulator tools/gpu-check.sh quick.
set -euo pipefail
cd "$(dirname "$0")/.."

most=$((44 << 20))
out=target/gpu
select=(--release)
case ${1:-} in
"") ;;
emulator) select=(--features emulator) ;;
*)
    echo "error: $1: expected nothing or emulator" >&2
    exit 2
    ;;
esac
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
git rev-parse HEAD > "$out/commit" 2> /dev/null || echo unknown > "$out/commit"
if [ "${1:-}" = emulator ]; then
    ls -l "$out"
    exit 0
fi

tools/compile_micro.sh "$out/micro"
ls -l "$out"
size=$(cat "$out"/* | wc -c)
if [ "$size" -gt $most ]; then
    echo "error: $out holds $size bytes, at most $most can be carried; COLLOQUY_CUDA_ARCHS=sm_90a is an H100 alone" >&2
    exit 1
fi
