#!/usr/bin/env bash
# Compiles tools/micro.cu for sm_90a: tools/compile_micro.sh FILE. Takes the nvcc of tools/cuda_toolchain.sh, else the machine's.
set -euo pipefail
file=$(realpath -m "${1:?the file to write}")
cd "$(dirname "$0")"

nvcc=${NVCC:-}
for candidate in .cuda/nvidia/cu13/bin/nvcc "$(command -v nvcc || true)" /usr/local/cuda/bin/nvcc; do
    [ -n "$nvcc" ] || [ ! -x "$candidate" ] || nvcc=$candidate
done
if [ -z "$nvcc" ]; then
    echo "error: there is no nvcc; tools/cuda_toolchain.sh installs one" >&2
    exit 127
fi
# The pinned packages keep the runtime's library beside bin, in a folder that nvcc does not search.
"$nvcc" -std=c++17 -O3 -lineinfo -gencode arch=compute_90a,code=sm_90a -Werror all-warnings \
    -L"$(dirname "$(dirname "$(realpath "$nvcc")")")/lib" -o "$file" micro.cu
