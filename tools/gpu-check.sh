#!/usr/bin/env bash
# Checks and measures the kernels on a machine with a GPU, with what tools/gpu-pack.sh built. Needs neither cargo nor network.
#
#   tools/gpu-check.sh quick           all steps below, in this order, in at most 8 minutes
#   tools/gpu-check.sh STEP [STEP …]   these steps alone
#   tools/gpu-check.sh test            every test of the kernels, the engine and the fixtures, each in a process of its own
#   tools/gpu-check.sh peer SCRIPT     PEFT's speed, by a script that takes --shape, --device, --dtype and --batch
#
# Steps, most valuable first:
#   start        does it start: driver, libraries, one test that opens the device
#   bits         micro.cu: is an element's bits of wgmma independent of N, and equal to mma.sync's
#   operations   one test of each operation
#   contract     sampled = scored = trained, together = alone, replayed = launched
#   pytorch      PyTorch's products and attention at our shapes
#   ops          each operation beside what the device reaches at its best
#   society      decoding and training at 1B, 135M and 8B: 384 prompt and 128 new tokens
#   rates        micro.cu: peak rates, gaps between the nodes of a graph
#   counters     the profiler's counters of three kernels
#   sanitizer    compute-sanitizer over two tests
#
# Everything is written to one folder outside the results folder $OUT (default target/gpu/results). After each step $OUT gets it as one archive,
# gpu-check.tar.gz, and what it says as summary.txt. A step that hangs, dies or is missing costs its own time only. The status is 0 if all is
# well, else 1.
#
# Variables: COLLOQUY_GPU_CHECK, the file to run (default target/gpu/gpu-check); GPU_CHECK_STEP_LIMIT, most seconds of a step;
# DEVICE=emulator tries all this without a GPU, on what `tools/gpu-pack.sh emulator` built: what only a GPU has is then skipped, and said so.
set -uo pipefail
cd "$(dirname "$0")/.."

check=${COLLOQUY_GPU_CHECK:-target/gpu/gpu-check}
micro=${COLLOQUY_GPU_MICRO:-target/gpu/micro}
out=${OUT:-target/gpu/results}
device=${DEVICE:-cuda}
# Most seconds of one step and of all.
step_limit=${GPU_CHECK_STEP_LIMIT:-480}
limit=470
# What a step's command takes longer than its time before it is given up.
readonly grace=3
# The status of a step that this machine has nothing for.
readonly absent=3

usage() {
    sed -n '2,/^set /p' "$0" | sed '$d; s/^# \{0,1\}//' >&2
    exit 2
}

# --- where things go -------------------------------------------------------------------------------------------------------------------

mkdir -p "$out" || exit 1
work=$(mktemp -d "${TMPDIR:-/tmp}/gpu-check.XXXXXX") || exit 1
# A line of the summary, on the screen too.
say() {
    printf '%s\n' "$*" | tee -a "$work/summary.txt"
}

# The summary and the archive of all there is so far, each whole under its name or as it was.
publish() {
    cp "$work/summary.txt" "$out/summary.txt.new" && mv "$out/summary.txt.new" "$out/summary.txt"
    tar -C "$work" -czf "$out/gpu-check.tar.gz.new" . && mv "$out/gpu-check.tar.gz.new" "$out/gpu-check.tar.gz"
}

# --- running within limits -------------------------------------------------------------------------------------------------------------

step_end=0
step=

# Seconds of this step that are left, at most $1.
left() {
    local seconds=$((step_end - SECONDS))
    echo $((seconds < $1 ? seconds : $1))
}

# kept SECONDS FILE COMMAND…: runs it for at most this long, its output in a file of the step's folder. Status 124: its time was over. A process
# that not even SIGKILL ends, since it waits in the driver, is left behind.
kept() {
    local seconds file=$work/$step/$2 pid end
    seconds=$(left "$1")
    shift 2
    if [ "$seconds" -lt 1 ]; then
        echo "no time was left" > "$file"
        return 124
    fi
    timeout -k 1 "$seconds" "$@" > "$file" 2>&1 &
    pid=$!
    end=$((SECONDS + seconds + grace))
    while kill -0 $pid 2> /dev/null; do
        [ $SECONDS -lt $end ] || return 124
        sleep 0.1
    done
    wait $pid
    local status=$?
    # timeout says 137 where it needed SIGKILL.
    [ $status -ne 137 ] || [ $SECONDS -lt $((end - grace)) ] || status=124
    return $status
}

# told NAME STATUS FILE: says how a command ended, and the end of what it printed if that was not well.
told() {
    local name=$1 status=$2 file=$work/$step/$3 word
    case $status in
        0) say "   ok         $name"; return 0 ;;
        124) word="TIMED OUT " ;;
        126 | 127) word="MISSING   " ;;
        *) word="FAILED    " ;;
    esac
    say "   $word $name (status $status)"
    grep -v '^$' "$file" | grep -A4 -m3 -E 'panicked|[Ee]rror' | head -n 12 | cut -c1-300 | sed 's/^/      | /' | tee -a "$work/summary.txt"
    return 1
}

# The program, with these arguments.
colloquy() {
    local seconds=$1 file=$2 arguments
    shift 2
    arguments=$(printf '%s\n' "$@")
    kept "$seconds" "$file" env COLLOQUY_ARGUMENTS="$arguments" "$check" --exact program --ignored --nocapture --test-threads=1
}

# What the program printed, but for its progress and the frame of the test that it is.
tables() {
    grep -vE '^$|^running|^test |^(device|memory) |: [a-z]+ [0-9]+/[0-9]+ in ' "$work/$step/$1" | cut -c1-120 | sed 's/^/      /' |
        tee -a "$work/summary.txt"
}

# one_test SECONDS NAME: the test of this name, in a process of its own.
one_test() {
    local seconds=$1 name=$2 full status
    full=$(sed -n "s/^\(\(.*::\)\?$name\): test\$/\1/p" "$work/tests.txt" | head -n 1)
    if [ -z "$full" ]; then
        say "   MISSING    no test is called $name"
        return 1
    fi
    kept "$seconds" "$name.txt" "$check" --exact "$full" --nocapture --test-threads=1
    status=$?
    if [ $status -eq 0 ] && ! grep -q '^test result: ok. 1 passed' "$work/$step/$name.txt"; then
        echo "error: it ran no test" >> "$work/$step/$name.txt"
        status=1
    fi
    if [ $status -eq 0 ] && [ "$device" = cuda ] && grep -q '^no GPU' "$work/$step/$name.txt"; then
        echo "error: it found no GPU" >> "$work/$step/$name.txt"
        status=1
    fi
    told "$full" $status "$name.txt"
}

# Each of these tests for at most so long; as many as the step has time for.
all_tests() {
    local seconds=$1 name failed=0
    shift
    for name in "$@"; do one_test "$seconds" "$name" || failed=1; done
    return $failed
}

# The full names of the tests of these modules.
tests_of() {
    local module
    for module in "$@"; do sed -n "s/^\($module::.*\): test\$/\1/p" "$work/tests.txt"; done
}

# What only a GPU has.
gpu_only() {
    [ "$device" = cuda ] && return 0
    say "   skipped    $1: only on a GPU"
    return 1
}

# --- the steps -------------------------------------------------------------------------------------------------------------------------

# Has the loader find cuBLASLt, which stands beside PyTorch, where it does not look.
find_cublaslt() {
    local library
    kept 10 cublaslt.txt python3 -c '
import glob, importlib.util, os
spec = importlib.util.find_spec("nvidia")
folders = list(spec.submodule_search_locations or []) if spec else []
found = [f for folder in folders for f in glob.glob(os.path.join(folder, "**", "libcublasLt.so*"), recursive=True)]
found += glob.glob("/usr/local/cuda/lib64/libcublasLt.so*") + glob.glob("/usr/local/cuda/targets/*/lib/libcublasLt.so*")
print(min(found, key=len) if found else "")
'
    library=$(head -n 1 "$work/$step/cublaslt.txt")
    if [ -f "$library" ]; then
        LD_LIBRARY_PATH=$(dirname "$library")${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}
        export LD_LIBRARY_PATH
    fi
    say "cuBLASLt   ${library:-not found}"
}

run_start() {
    say "date       $(date -u +%Y-%m-%dT%H:%M:%SZ)"
    say "commit     $(cat "$(dirname "$check")/commit" 2> /dev/null || echo unknown)"
    if [ "$device" = cuda ]; then
        kept 10 machine.txt nvidia-smi --query-gpu=name,driver_version,clocks.sm,clocks.mem,memory.total --format=csv,noheader
        say "GPU        $(head -n 1 "$work/$step/machine.txt")"
        find_cublaslt
        say "nvcc       $(nvcc --version 2> /dev/null | sed -n 's/.*, V//p')"
    fi
    kept 20 list.txt "$check" --list || { told "$check --list" $? list.txt; return 1; }
    cp "$work/$step/list.txt" "$work/tests.txt"
    one_test 20 rows_are_copied_by_index
}

run_bits() {
    gpu_only "wgmma's and mma.sync's bits" || return $absent
    micro_part 40 bits --dump "$work/bits/sums.jsonl"
}

run_rates() {
    gpu_only "peak rates and the gaps of graphs" || return $absent
    local failed=0
    micro_part 20 rates || failed=1
    micro_part 20 graph || failed=1
    return $failed
}

# micro_part SECONDS NAME ARGUMENTS…: a part of micro.cu, which the machine's own nvcc compiles where tools/gpu-pack.sh has not.
micro_part() {
    if [ ! -x "$micro" ]; then
        micro=$work/micro
        kept 40 compile.txt tools/compile_micro.sh "$micro" || { told "tools/compile_micro.sh" $? compile.txt; return 1; }
    fi
    local seconds=$1 part=$2 status
    shift 2
    kept "$seconds" "$part.txt" "$micro" "$part" "$@"
    told "micro $part" $? "$part.txt"
    status=$?
    grep -v '^{' "$work/$step/$part.txt" | cut -c1-140 | head -n 60 | sed 's/^/      /' | tee -a "$work/summary.txt"
    return $status
}

run_operations() {
    all_tests 15 forward_and_dx_match_the_oracle gradients_are_sums_over_rows packed_attention_is_the_softmax_average \
        pages_written_by_rope_give_the_bits_of_packed_sequences backward_matches_the_oracle_and_does_not_depend_on_company \
        loss_and_gradient_match_the_oracle draws_follow_the_exact_distribution every_slot_steps_by_its_own_numbers \
        norms_and_their_gradients_match_the_oracle rope_rotates_pairs_a_half_apart_and_back \
        swiglu_and_its_gradient_match_the_oracle every_configuration_gives_the_same_bits
}

run_contract() {
    local names=(sampled_scored_and_trained_log_probabilities_are_the_same generations_together_equal_generations_alone
        adapters_trained_together_equal_adapters_trained_alone decode_steps_are_replayed
        a_step_is_enqueued_before_the_draws_of_the_one_before_are_read)
    # The emulator takes minutes for all of them.
    [ "$device" = cuda ] || names=(sampled_scored_and_trained_log_probabilities_are_the_same decode_steps_are_replayed)
    all_tests 20 "${names[@]}"
}

run_pytorch() {
    local args=(--device cpu --tiny) status
    [ "$device" = cuda ] && args=(--device cuda)
    kept 40 reference.txt python3 tools/gpu-reference.py "${args[@]}" --seconds "$(left 35)" --json "$work/$step/reference.json"
    status=$?
    if [ $status -eq 3 ] && [ "$device" != cuda ]; then
        say "   skipped    $(tail -n 1 "$work/$step/reference.txt" | cut -c1-120)"
        return $absent
    fi
    told "tools/gpu-reference.py" $status reference.txt
    status=$?
    cut -c1-120 "$work/$step/reference.txt" | head -n 80 | sed 's/^/      /' | tee -a "$work/summary.txt"
    return $status
}

run_ops() {
    gpu_only "operations beside the device's best" || return $absent
    local failed=0 shape
    for shape in 8b 1b 135m; do
        colloquy 35 "$shape.txt" bench ops --device cuda --shape $shape --adapters 8 --batch 256 --json "$work/$step/$shape.json"
        told "bench ops --shape $shape" $? "$shape.txt" || failed=1
        tables "$shape.txt"
    done
    return $failed
}

# society SECONDS SHAPE BATCH ARGUMENTS…: decoding and training.
society() {
    local seconds=$1 shape=$2 batch=$3 file=$2-$3
    shift 3
    colloquy "$seconds" "$file.txt" bench decode train --device "$device" --shape "$shape" --batch "$batch" \
        --json "$work/$step/$file.json" "$@"
    told "bench decode train --shape $shape --batch $batch" $? "$file.txt"
    local status=$?
    tables "$file.txt"
    return $status
}

run_society() {
    local failed=0
    if [ "$device" != cuda ]; then
        society 30 tiny 2 --adapters 2 --prompt 4 --new-tokens 3 --sequences 1 --tokens 8 --repeats 1
        return
    fi
    local load=(--adapters 8 --prompt 384 --new-tokens 128 --sequences 1 --tokens 1024)
    society 35 1b 256 "${load[@]}" --repeats 2 --profile || failed=1
    society 20 135m 256 "${load[@]}" --repeats 2 || failed=1
    society 20 135m 24 "${load[@]}" --repeats 2 || failed=1
    society 75 8b 256 "${load[@]}" --repeats 1 || failed=1
    return $failed
}

# counters_of KERNEL SKIPPED ARGUMENTS…: the counters of one launch of a kernel in a run of the program.
counters_of() {
    local kernel=$1 skipped=$2 arguments status
    shift 2
    arguments=$(printf '%s\n' bench "$@" --device cuda --shape 1b --adapters 8 --repeats 1)
    kept 25 "$kernel.txt" env COLLOQUY_ARGUMENTS="$arguments" ncu --clock-control none --kernel-name "$kernel" \
        --launch-skip "$skipped" --launch-count 1 --kill yes --section SpeedOfLight --section WarpStateStats \
        --section MemoryWorkloadAnalysis --section Occupancy --section LaunchStats \
        "$check" --exact program --ignored --nocapture --test-threads=1
    status=$?
    # A program that the profiler ended is not one that failed.
    grep -q 'Duration' "$work/$step/$kernel.txt" && status=0
    told "ncu $kernel" $status "$kernel.txt" || return 1
    grep -E 'Duration|Throughput|Occupancy|Stall|Eligible|Registers|Hit Rate' "$work/$step/$kernel.txt" | cut -c1-100 |
        tee -a "$work/summary.txt"
    return 0
}

run_counters() {
    gpu_only "the profiler's counters" || return $absent
    local failed=0
    counters_of linear_large 8 train --sequences 1 --tokens 1024 || failed=1
    counters_of attend_splits_64 4 decode --batch 256 --prompt 384 --new-tokens 8 || failed=1
    counters_of attention_dkv_64 2 train --sequences 1 --tokens 1024 || failed=1
    return $failed
}

# sanitized TOOL TEST: a test under compute-sanitizer.
sanitized() {
    local full
    full=$(sed -n "s/^\(.*::$2\): test\$/\1/p" "$work/tests.txt" | head -n 1)
    kept 25 "$1-$2.txt" compute-sanitizer --tool "$1" --error-exitcode 9 "$check" --exact "${full:-$2}" --nocapture --test-threads=1
    told "compute-sanitizer $1, $2" $? "$1-$2.txt"
}

run_sanitizer() {
    gpu_only "compute-sanitizer (tools/sanitize.sh replays the emulator's launches)" || return $absent
    local failed=0
    sanitized memcheck forward_and_dx_match_the_oracle || failed=1
    sanitized racecheck packed_attention_is_the_softmax_average || failed=1
    return $failed
}

run_test() {
    # shellcheck disable=SC2046
    all_tests 60 $(tests_of kernels engine_kernels fixtures_kernels)
}

run_peer() {
    local failed=0 shape batch
    for shape in smol-135m llama-1b; do
        for batch in 24 256; do
            kept 90 "$shape-$batch.txt" python3 "$peer" --shape $shape --device "$device" --dtype bfloat16 --batch $batch
            told "$peer --shape $shape --batch $batch" $? "$shape-$batch.txt" || failed=1
        done
    done
    return $failed
}

# --- in order --------------------------------------------------------------------------------------------------------------------------

# Most seconds of each step.
declare -A budget=([start]=30 [bits]=40 [operations]=70 [contract]=50 [pytorch]=40 [ops]=80 [society]=130 [rates]=40 [counters]=60
    [sanitizer]=45 [test]=420 [peer]=300)
readonly quick=(start bits operations contract pytorch ops society rates counters sanitizer)
status=0

run_step() {
    step=$1
    export GPU_CHECK_STEP=$step
    local seconds=${budget[$step]} started=$SECONDS outcome
    [ "$seconds" -le "$step_limit" ] || seconds=$step_limit
    [ "$seconds" -le $((limit - SECONDS)) ] || seconds=$((limit - SECONDS))
    mkdir -p "$work/$step"
    say "== $step"
    step_end=$((SECONDS + seconds))
    if [ "$seconds" -lt 1 ]; then
        outcome="left out: no time was left"
        status=1
    else
        "run_$step"
        case $? in
            0) outcome=ok ;;
            "$absent") outcome=skipped ;;
            *) outcome="not well" status=1 ;;
        esac
    fi
    say "== $step: $outcome, $((SECONDS - started)) s"
    publish
}

[ $# -gt 0 ] || usage
steps=()
while [ $# -gt 0 ]; do
    case $1 in
        quick) steps+=("${quick[@]}") ;;
        peer)
            peer=${2:-}
            [ -f "$peer" ] || { echo "error: peer: expected the path of the script that measures PEFT" >&2; exit 2; }
            steps+=(peer)
            shift
            ;;
        *)
            [ -n "${budget[$1]:-}" ] || usage
            steps+=("$1")
            ;;
    esac
    shift
done
case $device in cuda | emulator) ;; *) echo "error: DEVICE=$device: expected cuda or emulator" >&2; exit 2 ;; esac
if [ ! -x "$check" ]; then
    echo "error: $check is missing; run tools/gpu-pack.sh where cargo is" >&2
    exit 1
fi

# Steps but `start` need the list of tests.
[ "${steps[0]}" = start ] || steps=(start "${steps[@]}")
for name in "${steps[@]}"; do run_step "$name"; done
say "all of it: $([ $status = 0 ] && echo ok || echo "not well"), $SECONDS s"
publish
exit $status
