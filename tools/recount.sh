#!/usr/bin/env bash
# tools/recount.py on a small run of the embedded model: it must agree with the run, and must find each of several planted mistakes.
# COLLOQUY names the program to run [default: target/debug/colloquy, which is built if it is not there].
set -euo pipefail
cd "$(dirname "$0")/.."

program=${COLLOQUY:-target/debug/colloquy}
[ -x "$program" ] || cargo build --features emulator --locked
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT

"$program" run --output "$folder/run" --set task.train_questions=8 --set task.dev_questions=8 --set task.test_questions=5 \
    --set debate.min_agreement=1 --set sampling.max_tokens=90 --set sampling.summary_max_tokens=60 --set run.iterations=1 \
    --set eval.majority_samples=5 > "$folder/log" 2>&1 || { cat "$folder/log" >&2; exit 1; }
python3 tools/recount.py "$folder/run"

# An arm that names a preset has what that says of votes: here one vote of two is enough.
cat > "$folder/preset.toml" << 'EOF'
[[arm]]
name = "paper"
recipe = "multiagent"
set = { "run.preset" = "paper" }
EOF
"$program" run "$folder/preset.toml" --output "$folder/preset" --set task.train_questions=8 --set task.dev_questions=2 --set debate.agents=2 \
    --set sampling.max_tokens=90 --set sampling.summary_max_tokens=60 --set run.iterations=1 --set eval.before=false --set eval.diversity=0 \
    > "$folder/log" 2>&1 || { cat "$folder/log" >&2; exit 1; }
python3 tools/recount.py "$folder/preset"

# plant NAME FILE PYTHON: changes the run's FILE, of which PYTHON gets the JSON records as `all`, and wants the recount to notice.
plant() {
    rm -rf "$folder/planted"
    cp -r "$folder/run" "$folder/planted"
    python3 - "$folder/planted/$2" "$3" << 'EOF'
import json, sys
path, change = sys.argv[1:]
with open(path) as file:
    all = [json.loads(line) for line in file]
exec(change)
with open(path, "w") as file:
    file.writelines(json.dumps(record) + "\n" for record in all)
EOF
    if python3 tools/recount.py "$folder/planted" > "$folder/found"; then
        echo "tools/recount.py: did not notice: $1" >&2
        exit 1
    fi
    if ! grep -q "multiagent/seed-0, iteration 1" "$folder/found"; then
        echo "tools/recount.py: does not say where: $1" >&2
        cat "$folder/found" >&2
        exit 1
    fi
    echo "found: $1"
}

last='next(m for m in all if (m.get("arm"), m.get("iteration"), m.get("name")) == ("multiagent", 1, "dev"))'
labels='next(m for m in all if (m.get("arm"), m.get("iteration"), m.get("name")) == ("multiagent", 1, "pseudo-labels"))'
debates=transcripts/multiagent/seed-0/iteration-1/dev-debate.jsonl
said='turn = next(t for r in all for t in r["rounds"][0]["turns"] if t["answer"] is not None)'
plant "a wrong accuracy of the final vote" metrics.jsonl "$last['debate']['accuracy'] += 0.125"
plant "a wrong accuracy of one agent" metrics.jsonl "$last['single']['agents'][1] += 0.125"
plant "a wrong majority vote" metrics.jsonl "$last['majority']['accuracy'] += 0.125"
plant "a wrong standard error" metrics.jsonl "$last['greedy']['standard_error'] += 0.01"
plant "a wrong accuracy of pseudo-labels" metrics.jsonl "$labels['accuracy'] += 0.1"
plant "an accuracy that nothing explains" metrics.jsonl "$last['other'] = {'accuracy': 0.5}"
plant "an altered answer" "$debates" "$said; turn['answer'] += '1'"
plant "an altered response" "$debates" "$said; turn['response']['text'] += ' 123456'"
plant "an altered vote" "$debates" "r = next(r for r in all if r['rounds'][0]['vote']['answer']); r['rounds'][0]['vote']['answer'] += '1'"
plant "an altered count of votes" "$debates" "all[0]['rounds'][0]['vote']['votes'] += 1"
plant "an altered reference answer" "$debates" "all[0]['reference'] += '1'"
plant "an answer called right" transcripts/multiagent/seed-0/iteration-1/dev-greedy.jsonl "all[0]['right'][0] = not all[0]['right'][0]"

# A table beside the run: right, then wrong.
python3 - "$folder" << 'EOF'
import json, sys
folder = sys.argv[1]
with open(f"{folder}/run/metrics.jsonl") as file:
    dev = next(m for m in map(json.loads, file) if (m.get("arm"), m.get("iteration"), m.get("name")) == ("multiagent", 1, "dev"))
for name, wrong in [("right", 0), ("wrong", 0.001)]:
    with open(f"{folder}/{name}.csv", "w") as out:
        print("arm,seed,iteration,split,method,round,accuracy", file=out)
        print(f"multiagent,0,1,dev,greedy,,{dev['greedy']['accuracy'] + wrong:.6f}", file=out)
        print(f"multiagent,0,1,dev,first-vote,1,{dev['debate']['rounds'][0]['accuracy']:.6f}", file=out)
EOF
python3 tools/recount.py "$folder/run" --csv "$folder/right.csv"
if python3 tools/recount.py "$folder/run" --csv "$folder/wrong.csv" > "$folder/found"; then
    echo "tools/recount.py: did not notice a wrong table" >&2
    exit 1
fi
grep -q "wrong.csv, line 2" "$folder/found"
echo "found: a wrong table"
