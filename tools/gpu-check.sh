#!/usr/bin/env bash
# Checks and measures the kernels on a machine with a GPU, from what tools/gpu-pack.sh built; neither cargo nor network is needed.
#
#   tools/gpu-check.sh test                 every test of the kernels, the engine and the fixtures on the GPU
#   tools/gpu-check.sh sanitize             compute-sanitizer (memcheck, racecheck, synccheck) over a few tests of each operation
#   tools/gpu-check.sh bench                operations at three shapes; prefill, decoding and training at two
#   tools/gpu-check.sh peer SCRIPT          the same in PEFT, by a script that takes --shape smol-135m or llama-1b, --device, --dtype and --batch
#   tools/gpu-check.sh all [SCRIPT]         all of them, in this order
#
# Each part takes less than six minutes, prints its tables, and writes what it found to $OUT (default target/gpu/results) before the next begins.
# Model weights are random, made from the shape; nothing is read but tests/fixtures.
set -uo pipefail
cd "$(dirname "$0")/.."

bin=${COLLOQUY_GPU_BIN:-target/gpu}
out=${OUT:-target/gpu/results}
part_limit=350
mkdir -p "$out"

if [ ! -x "$bin/colloquy" ]; then
    echo "error: $bin/colloquy is missing; run tools/gpu-pack.sh where cargo is" >&2
    exit 1
fi

about() {
    {
        date -u +%Y-%m-%dT%H:%M:%SZ
        nvidia-smi --query-gpu=name,driver_version,clocks.sm,memory.total --format=csv,noheader
        "$bin/colloquy" --version
        git rev-parse HEAD 2>/dev/null || true
    } | tee "$out/machine.txt"
}

# Runs a command under the part's limit; keeps its output in a file.
kept() {
    local file=$1
    shift
    timeout "$part_limit" "$@" 2>&1 | tee "$out/$file"
    return "${PIPESTATUS[0]}"
}

run_test() {
    local failed=0
    for name in kernels engine_kernels fixtures_kernels; do
        echo "== test-$name"
        kept "test-$name.txt" "$bin/test-$name" --nocapture --test-threads=1 || failed=1
        if grep -q '^no GPU' "$out/test-$name.txt"; then
            echo "error: test-$name found no GPU" >&2
            failed=1
        fi
    done
    return $failed
}

run_sanitize() {
    local failed=0 tool name log
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
            part_limit=25 kept "$log" compute-sanitizer --tool "$tool" --error-exitcode 9 \
                "$bin/test-kernels" "$name" --test-threads=1 || failed=1
            # A name that no test has would pass.
            grep -q '^running [1-9]' "$out/$log" || { echo "error: no test is called $name" >&2; failed=1; }
        done
    done
    return $failed
}

run_bench() {
    local failed=0
    for shape in 135m 1b 8b; do
        echo "== operations, $shape"
        rm -f "$out/ops-$shape.json"
        kept "ops-$shape.txt" "$bin/colloquy" bench ops --device cuda --shape "$shape" --adapters 8 --batch 256 \
            --json "$out/ops-$shape.json" || failed=1
    done
    for shape in 135m 1b; do
        for batch in 24 256; do
            echo "== society, $shape, batch $batch"
            rm -f "$out/society-$shape-$batch.json"
            kept "society-$shape-$batch.txt" "$bin/colloquy" bench --device cuda --shape "$shape" --batch "$batch" \
                --profile --json "$out/society-$shape-$batch.json" || failed=1
        done
    done
    return $failed
}

run_peer() {
    local script=${1:?"the path of the script that measures PEFT"} failed=0
    for shape in smol-135m llama-1b; do
        for batch in 24 256; do
            kept "peer-$shape-$batch.txt" python3 "$script" --shape "$shape" --device cuda --dtype bfloat16 \
                --batch "$batch" || failed=1
        done
    done
    return $failed
}

part=${1:-}
shift || true
case "$part" in
test | sanitize | bench | peer)
    about
    "run_$part" "$@"
    ;;
all)
    about
    status=0
    run_test || status=1
    run_sanitize || status=1
    run_bench || status=1
    if [ $# -gt 0 ]; then run_peer "$1" || status=1; fi
    exit $status
    ;;
*)
    sed -n '2,12p' "$0" | sed 's/^# \{0,1\}//' >&2
    exit 2
    ;;
esac
