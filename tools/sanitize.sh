#!/usr/bin/env bash
# Runs the CUDA kernels under sanitizers, on any x86-64 Linux machine with g++: AddressSanitizer with UndefinedBehaviorSanitizer (accesses outside of allocations
# and of shared memory, to freed memory, misaligned), and ThreadSanitizer with one thread to each CUDA thread (missing barriers, also between lanes of a warp;
# races between blocks).
#
#   tools/sanitize.sh [FILTER]       writes logs of the kernel tests (whose names contain FILTER) and replays them
#   tools/sanitize.sh --replay LOG.. replays logs (COLLOQUY_EMULATOR_LOG, src/backend/cuda/emulator/log.rs)
#   tools/sanitize.sh --self-test    that planted defects (kernels/emulator/defects.cpp) are found
#
# Replays in other orders of blocks, warps and lanes, without sanitizers, must give the same bits.
#
# LAUNCHES (default 3): launches of a kind that are examined; those between run without sanitizer. BLOCKS (default 12): blocks of each. SEEDS (default 3):
# other orders.
# All is built in target/sanitize and kept. Status 0: nothing found, or in a self-test: all found.
set -euo pipefail
if [ "$(uname -sm)" != "Linux x86_64" ]; then
    echo "tools/sanitize.sh: needs Linux on x86-64; this is $(uname -sm)" >&2
    exit 1
fi
cd "$(dirname "$0")/.."
out=target/sanitize
mkdir -p "$out"
export out COMMON="-std=c++20 -g -fno-strict-aliasing -ffp-contract=off -Wno-unknown-pragmas -Ikernels"
sources=$(ls kernels/*.cu kernels/emulator/*.cpp)
headers=$(cat kernels/*.cuh kernels/emulator/*.h | sha256sum)
export headers

# object KIND SOURCE FLAGS...: compiles unless this was compiled before.
object() {
    local kind=$1 source=$2 name key
    name=$out/$kind-$(basename "$source" | tr . _).o
    key=$(echo "$headers $COMMON ${*:3} $(g++ -dumpfullversion) $(sha256sum < "$source")" | sha256sum)
    if [ ! -f "$name" ] || [ "$(cat "$name.key" 2> /dev/null)" != "$key" ]; then
        # shellcheck disable=SC2086
        g++ $COMMON "${@:3}" -x c++ -c "$source" -o "$name"
        echo "$key" > "$name.key"
    fi
}
export -f object

build() {
    local address="-O1 -fno-omit-frame-pointer -fsanitize=address,undefined -fno-sanitize-recover=undefined" thread="-O1 -fno-omit-frame-pointer -fsanitize=thread"
    {
        for source in $sources kernels/emulator/replay/replay.cpp; do
            echo "address $source $address"
            case $source in
                # The emulator and the replayer are not what is examined.
                */runtime.cpp | */replay.cpp) echo "thread $source -O2 -DEMULATOR_TSAN" ;;
                *) echo "thread $source $thread" ;;
            esac
            case $source in
                */replay.cpp) ;;
                *) echo "plain $source -O2 -fPIC" ;;
            esac
        done
    } | xargs -P "$(nproc)" -L 1 bash -c 'object "$@"' object
    local kernels=() plain=() name
    for source in $sources; do
        name=$(basename "$source" | tr . _).o
        plain+=("$out/plain-$name")
        [ "$name" = runtime_cpp.o ] || kernels+=("$name")
    done
    g++ -shared "${plain[@]}" -o "$out/plain.so"
    # Where two objects have the same inline function the first is taken: one that is examined.
    for kind in address thread; do
        g++ "-fsanitize=$kind" -fsanitize=undefined "${kernels[@]/#/$out/$kind-}" "$out/$kind-replay_cpp.o" "$out/$kind-runtime_cpp.o" -ldl -o "$out/replay-$kind"
    done
}

# Without address space randomization where that is allowed: ThreadSanitizer cannot live with much of it.
fixed=$(setarch -R true 2> /dev/null && echo "setarch -R" || true)

# replay KIND LOG...
replay() {
    local kind=$1
    ASAN_OPTIONS=detect_stack_use_after_return=0:detect_leaks=0 UBSAN_OPTIONS=print_stacktrace=1 \
        TSAN_OPTIONS=history_size=4:report_thread_leaks=0:detect_deadlocks=0 \
        $fixed "$out/replay-$kind" "$out/plain.so" "${LAUNCHES:-3}" "${BLOCKS:-12}" "${SEED:-0}" "${@:2}"
}

replay_all() {
    local status=0
    local -A pids
    for kind in address thread; do
        replay "$kind" "$@" > "$out/$kind.txt" 2>&1 &
        pids[$kind]=$!
    done
    for kind in address thread; do
        if wait "${pids[$kind]}"; then
            echo "$kind: $(tail -n 1 "$out/$kind.txt")"
        else
            status=1
            head -n 120 "$out/$kind.txt"
            echo "$kind: FAILED, $(grep -cE '^(WARNING|==[0-9]+==ERROR)|runtime error' "$out/$kind.txt") reports in $out/$kind.txt"
        fi
    done
    for ((seed = 1; seed <= ${SEEDS:-3}; seed++)); do
        if SEED=$seed LAUNCHES=0 replay address "$@" > "$out/order.txt" 2>&1; then
            echo "order $seed: $(tail -n 1 "$out/order.txt")"
        else
            status=1
            tail -n 5 "$out/order.txt"
            echo "order $seed: FAILED"
        fi
    done
    return $status
}

# logs ARGUMENT...: runs tests of the operations (the arguments are those of the test program), which write logs.
logs() {
    rm -rf "$out/logs"
    mkdir -p "$out/logs"
    COLLOQUY_EMULATOR_LOG=$PWD/$out/logs cargo test --quiet --locked --features emulator --test ops -- "$@"
    # The order of lanes, warps and blocks is nothing to a sanitizer.
    rm -f "$out"/logs/*.seed2.log
    du -sh "$out/logs"
}

# finds KIND DEFECT TEXT: whether a replay of the defect's logs reports the text.
finds() {
    local kind=$1 defect=$2 text=$3 status=0
    replay "$kind" "$out/logs/emulator-defects-$defect".*.log > "$out/$defect.txt" 2>&1 || status=$?
    if [ $status -ne 0 ] && grep -qE "$text" "$out/$defect.txt" && grep -q "kernels/emulator/defects.cpp" "$out/$defect.txt"; then
        echo "$defect: $(grep -E "$text" "$out/$defect.txt" | head -n 1)"
    else
        head -n 40 "$out/$defect.txt"
        echo "$defect: NOT FOUND (status $status)"
        return 1
    fi
}

build
case ${1:-} in
    --replay) replay_all "${@:2}" ;;
    --self-test)
        logs emulator::defects::
        failures=0
        finds thread missing_barrier "WARNING: ThreadSanitizer: data race" || failures=1
        finds thread missing_sync_warp "WARNING: ThreadSanitizer: data race" || failures=1
        finds thread overwritten_buffer "WARNING: ThreadSanitizer: data race" || failures=1
        finds thread blocks_race "WARNING: ThreadSanitizer: data race" || failures=1
        finds address read_past_the_end "ERROR: AddressSanitizer: use-after-poison" || failures=1
        finds address read_past_shared "ERROR: AddressSanitizer: heap-buffer-overflow" || failures=1
        finds address use_of_freed "ERROR: AddressSanitizer: use-after-poison" || failures=1
        if SEED=1 LAUNCHES=0 replay address "$out"/logs/emulator-defects-blocks_race.*.log > "$out/order.txt" 2>&1; then
            echo "blocks_race: the order of blocks makes NO DIFFERENCE"
            failures=1
        else
            echo "blocks_race, another order: $(tail -n 1 "$out/order.txt")"
        fi
        for kind in address thread; do
            replay $kind "$out"/logs/emulator-defects-no_defect.*.log || failures=1
        done
        exit $failures
        ;;
    *)
        # What tests the emulator itself has defects.
        logs "${1:-kernels::}" --skip emulator::
        replay_all "$out"/logs/*.log
        ;;
esac
