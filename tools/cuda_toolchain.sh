#!/usr/bin/env bash
# Installs the pinned CUDA compiler (nvcc 13.0.88 with cuobjdump and nvdisasm; 105 MB to download, 280 MB on disk) into tools/.cuda, where
# build.rs finds it. Needs python3 with pip, no GPU, no root; touches nothing outside tools/. Run again, it does nothing unless the pins changed.
set -euo pipefail
cd "$(dirname "$0")"

pins=cuda_requirements.txt
home=.cuda
fail() {
    echo "cuda_toolchain.sh: $*" >&2
    exit 1
}

if cmp -s "$pins" "$home/$pins"; then
    echo "tools/$home is up to date: $("$home/nvidia/cu13/bin/nvcc" --version | sed -n 's/.*, V/nvcc /p')"
    exit 0
fi

[ "$(uname -s)" = Linux ] || fail "the CUDA compiler is to be had for Linux only, this is $(uname -s)"
command -v python3 > /dev/null || fail "python3 is not installed (Debian, Ubuntu: apt-get install python3-pip)"
python3 -m pip --version > /dev/null 2>&1 || fail "python3 has no pip (Debian, Ubuntu: apt-get install python3-pip)"

# Everything goes to a new folder first, so that a broken download never passes for a compiler. The two variables undo settings of the user's
# pip that exclude --target.
new=$home.new
trap 'rm -rf "$new"' EXIT
rm -rf "$new"
echo "installing the packages of tools/$pins into tools/$home"
PIP_USER=0 PIP_REQUIRE_VIRTUALENV=0 PIP_ROOT_USER_ACTION=ignore PIP_DISABLE_PIP_VERSION_CHECK=1 \
    python3 -m pip install --quiet --no-deps --only-binary :all: --require-hashes --target "$new" --requirement "$pins" ||
    fail "pip could not install the packages of tools/$pins (its message stands above)"
for program in nvcc ptxas cuobjdump nvdisasm; do
    "$new/nvidia/cu13/bin/$program" --version > /dev/null || fail "the installed $program does not run on this machine"
done
cp "$pins" "$new/$pins"
rm -rf "$home"
mv "$new" "$home"
# build.rs has cargo watch this file, as the folder is too large to watch.
touch "$pins"
echo "installed $("$home/nvidia/cu13/bin/nvcc" --version | sed -n 's/.*, V/nvcc /p') and $("$home/nvidia/cu13/bin/cuobjdump" --version | sed -n 's/.*, V/cuobjdump /p')"
command -v g++ > /dev/null || echo "note: nvcc needs a host compiler, and g++ is not installed (Debian, Ubuntu: apt-get install g++)"
