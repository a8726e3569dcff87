#!/usr/bin/env bash
# Checks and measures the kernels on a machine with a GPU, from the one file that tools/gpu-pack.sh built; neither cargo nor network is needed.
#
#   tools/gpu-check.sh test                 every test of the kernels, the engine and the fixtures on the GPU
#   tools/gpu-check.sh sanitize             compute-sanitizer (memcheck, racecheck, synccheck) over a few tests of each operation
#   tools/gpu-check.sh bench                operations at three shapes; prefill, decoding and training at two
#   tools/gpu-check.sh peer SCRIPT          the same in PEFT, by a script that takes --shape smol-135m or llama-1b, --device, --dtype and --batch
#   tools/gpu-check.sh all [SCRIPT]         all of them, in this order
#
# Each part takes less than six minutes, prints its tables, and writes what it found to $OUT (default target/gpu/results) before the next begins.
# Model weights are noise made on the device; nothing is read but tests/fixtures. DEVICE=emulator tries all this without a GPU, on what
# `tools/gpu-pack.sh emulator` built: the small shape only, and neither compute-sanitizer nor what measures a GPU.
set -uo pipefail
cd "$(dirname "$0")/.."

check=${COLLOQUY_GPU_CHECK:-target/gpu/gpu-check}
out=${OUT:-target/gpu/results}
device=${DEVICE:-cuda}
part_limit=350
mkdir -p "$out"

if [ ! -x "$check" ]; then
    echo "error: $check is missing; run tools/gpu-pack.sh where cargo is" >&2
    exit 1
fi
part_end=0

# Runs a command until the part's time is over; keeps its output in a file.
kept() {
    local file=$1 left=$((part_end - SECONDS))
    shift
    if [ "$left" -lt 1 ]; then
        echo "error: no time left for $file" | tee "$out/$file" >&2
        return 1
    fi
    timeout "$left" "$@" 2>&1 | tee "$out/$file"
    return "${PIPESTATUS[0]}"
}

# The program, with these arguments.
colloquy() {
    local file=$1 arguments
    shift
    arguments=$(printf '%s\n' "$@")
    kept "$file" env COLLOQUY_ARGUMENTS="$arguments" "$check" --exact program --ignored --nocapture --test-threads=1
}

about() {
    {
        date -u +%Y-%m-%dT%H:%M:%SZ
        nvidia-smi --query-gpu=name,driver_version,clocks.sm,memory.total --format=csv,noheader || true
        git rev-parse HEAD 2>/dev/null || true
    } 2>&1 | tee "$out/machine.txt"
}

run_test() {
    local failed=0 name skip
    for name in kernels engine_kernels fixtures_kernels; do
        echo "== $name"
        skip=()
        # A filter is a part of a name.
        [ "$name" = kernels ] && skip=(--skip engine_kernels:: --skip fixtures_kernels::)
        kept "test-$name.txt" "$check" "$name::" "${skip[@]}" --nocapture --test-threads=1 || failed=1
        if ! grep -q '^running [1-9]' "$out/test-$name.txt"; then
            echo "error: no test is called $name::" >&2
            failed=1
        fi
        if [ "$device" = cuda ] && grep -q '^no GPU' "$out/test-$name.txt"; then
            echo "error: $name found no GPU" >&2
            failed=1
        fi
    done
    return $failed
}

run_sanitize() {
    if [ "$device" != cuda ]; then
        echo "compute-sanitizer is for a GPU; tools/sanitize.sh replays the emulator's launches"
        return 0
    fi
    local failed=0 tool name log end=$part_end
    # One test of each operation; racecheck, which looks at shared memory only and is the slowest, skips those without any.
    local memcheck=(rows_are_copied_by_index forward_and_dx_match_the_oracle gradients_are_sums_over_rows
        packed_attention_is_the_softmax_average loss_and_gradient_match_the_oracle every_slot_steps_by_its_own_numbers)
    local racecheck=(forward_and_dx_match_the_oracle gradients_are_sums_over_rows packed_attention_is_the_softmax_average
        loss_and_gradient_match_the_oracle)
    local synccheck=("${racecheck[@]}")
    for tool in memcheck racecheck synccheck; do
        local -n subset=$tool
        for name in "${subset[@]}"; do
            echo "== compute-sanitizer $tool, $name"
            log="sanitize-$tool-$name.txt"
            # Each has its share, and none goes on after the part.
            part_end=$((SECONDS + 25 < end ? SECONDS + 25 : end))
            kept "$log" compute-sanitizer --tool "$tool" --error-exitcode 9 "$check" "$name" --test-threads=1 || failed=1
            # A name that no test has would pass.
            grep -q '^running [1-9]' "$out/$log" || { echo "error: no test is called $name" >&2; failed=1; }
        done
    done
    return $failed
}

run_bench() {
    local failed=0 shape batch json sizes=(24 256) shapes=(135m 1b) more=(--profile)
    if [ "$device" = cuda ]; then
        for shape in 135m 1b 8b; do
            echo "== operations, $shape"
            json="$out/ops-$shape.json"
            rm -f "$json"
            colloquy "ops-$shape.txt" bench ops --device cuda --shape "$shape" --adapters 8 --batch 256 --json "$json" || failed=1
        done
    else
        sizes=(2) shapes=(tiny) more=(--adapters 2 --prompt 4 --new-tokens 3 --sequences 1 --tokens 8 --repeats 1)
    fi
    for shape in "${shapes[@]}"; do
        for batch in "${sizes[@]}"; do
            echo "== society, $shape, batch $batch"
            json="$out/society-$shape-$batch.json"
            rm -f "$json"
            colloquy "society-$shape-$batch.txt" bench --device "$device" --shape "$shape" --batch "$batch" "${more[@]}" \
                --json "$json" || failed=1
            [ -s "$json" ] || { echo "error: $json was not written" >&2; failed=1; }
        done
    done
    return $failed
}

run_peer() {
    local script=${1:?"the path of the script that measures PEFT"} failed=0 shape batch
    for shape in smol-135m llama-1b; do
        for batch in 24 256; do
            kept "peer-$shape-$batch.txt" python3 "$script" --shape "$shape" --device "$device" --dtype bfloat16 \
                --batch "$batch" || failed=1
        done
    done
    return $failed
}

part() {
    local name=$1
    shift
    part_end=$((SECONDS + part_limit))
    "run_$name" "$@"
}

part=${1:-}
shift || true
case "$part" in
test | sanitize | bench | peer)
    about
    part "$part" "$@"
    ;;
all)
    about
    status=0
    part test || status=1
    part sanitize || status=1
    part bench || status=1
    if [ $# -gt 0 ]; then part peer "$1" || status=1; fi
    exit $status
    ;;
*)
    sed -n '2,12p' "$0" | sed 's/^# \{0,1\}//' >&2
    exit 2
    ;;
esac
