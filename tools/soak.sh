#!/usr/bin/env bash
# What takes too long for every change: run now and then, and before a release.
#
#   tools/soak.sh fuzz [MINUTES]     every fuzz target for so many minutes [default: 10]; a table of what came of it
#   tools/soak.sh long [ITERATIONS]  a run of so many iterations of a shrunk example [default: 300], watched: memory, open files, size of its folder
#   tools/soak.sh --help             this text
#
# fuzz needs cargo-fuzz (cargo install cargo-fuzz --locked) and no other toolchain than the project's: what is unstable is asked for by RUSTC_BOOTSTRAP.
# New inputs are kept in target/soak/corpus/TARGET, not in fuzz/corpus, which stays small (fuzz/README.md says how it grows). Inputs that are
# findings lie in fuzz/artifacts/TARGET, the fuzzer's own words in target/soak/TARGET.log.
#
# TARGETS: targets by name, instead of all. JOBS (default 1): how many run at once. SANITIZER (default none): address, leak, memory or thread looks into
# the unsafe code of other people too, for two to three times the time.
# Status 0: no findings; long: nothing grew that should not.
#
# Results that are worth keeping go to docs/results/soak.md.
set -euo pipefail
cd "$(dirname "$0")/.."

usage() { sed -n '2,/^set -euo/{/^set -euo/d;s/^# \{0,1\}//;p}' "$0"; }

# A number in the statistics at the end of a log, 0 where there are none.
statistic() {
    local number
    number=$(sed -n "s/^stat::$2: *//p" "$1" | tail -1)
    echo "${number:-0}"
}

# fuzz_one TARGET SECONDS: runs one target on its corpus, its regressions and what earlier runs kept.
fuzz_one() {
    local target=$1 seconds=$2 corpus=target/soak/corpus/$1 folders
    mkdir -p "$corpus"
    # The first folder takes what is new.
    folders=("$corpus" "fuzz/corpus/$target")
    [ ! -d "fuzz/regressions/$target" ] || folders+=("fuzz/regressions/$target")
    # Templates and patterns that are read once and kept are no leaks.
    cargo fuzz run --sanitizer "$SANITIZER" "$target" "${folders[@]}" -- -max_total_time="$seconds" -timeout=10 -rss_limit_mb=4096 -detect_leaks=0 \
        -print_final_stats=1 > "target/soak/$target.log" 2>&1 || true
}

# The row of a target; false where it has findings.
row() {
    local target=$1 log=target/soak/$1.log crashes
    # The fuzzer stops at the first.
    crashes=$(grep -c 'Test unit written to' "$log" || true)
    if [ "$crashes" = 0 ] && ! grep -q '^stat::number_of_executed_units' "$log"; then
        printf '%-16s did not run: see %s\n' "$target" "$log"
        return 1
    fi
    printf '%-16s %12s %10s %8s %8s MiB\n' "$target" "$(statistic "$log" number_of_executed_units)" \
        "$(statistic "$log" new_units_added)" "$crashes" "$(statistic "$log" peak_rss_mb)"
    [ "$crashes" = 0 ] || { sed -n 's/.*Test unit written to /    /p' "$log" && return 1; }
}

fuzz() {
    local minutes=${1:-10} seconds targets status=0
    case $minutes in
        '' | *[!0-9.]* | *.*.*)
            echo "tools/soak.sh: fuzz $minutes: expected a number of minutes" >&2
            exit 2
            ;;
    esac
    cargo fuzz --version > /dev/null 2>&1 || { echo "tools/soak.sh: needs cargo-fuzz: cargo install cargo-fuzz --locked" >&2 && exit 1; }
    seconds=$(awk -v minutes="$minutes" 'BEGIN { s = int(60 * minutes); print (s > 0 ? s : 1) }')
    export RUSTC_BOOTSTRAP=1 COLLOQUY_CUDA_ARCHS=none SANITIZER=${SANITIZER:-none}
    read -r -a targets <<< "${TARGETS:-$(sed -n 's/^name = "\(.*\)"$/\1/p' fuzz/Cargo.toml | grep -v '^colloquy-fuzz$' | tr '\n' ' ')}"
    mkdir -p target/soak
    : > target/soak/build.log
    for target in "${targets[@]}"; do
        [ -f "fuzz/fuzz_targets/$target.rs" ] || { echo "tools/soak.sh: TARGETS: no target $target in fuzz/fuzz_targets" >&2 && exit 2; }
        cargo fuzz build --sanitizer "$SANITIZER" "$target" >> target/soak/build.log 2>&1 || { tail -20 target/soak/build.log >&2 && exit 1; }
    done
    printf '%s\n' "${targets[@]}" | xargs -P "${JOBS:-1}" -I {} "$0" --one {} "$seconds"
    echo "$(git rev-parse --short HEAD), $minutes minutes a target, sanitizer $SANITIZER, $(rustc --version)"
    printf '%-16s %12s %10s %8s %12s\n' target executions 'new units' crashes 'peak memory'
    for target in "${targets[@]}"; do
        row "$target" || status=1
    done
    return $status
}

long() {
    local iterations=${1:-300}
    COLLOQUY_CUDA_ARCHS=none cargo build --release --locked
    echo "$(git rev-parse --short HEAD), $(rustc --version)"
    python3 tools/soak_long.py target/release/colloquy --iterations "$iterations"
}

case ${1:-} in
    long) long "${@:2}" ;;
    fuzz) fuzz "${@:2}" ;;
    --one) fuzz_one "$2" "$3" ;;
    -h | --help) usage ;;
    *)
        usage >&2
        exit 2
        ;;
esac
