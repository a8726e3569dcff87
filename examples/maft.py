"""Multiagent finetuning (arXiv 2501.05707) in plain Python, through `colloquy session`.

    colloquy run examples/maft.toml --output runs/maft
    python3 examples/maft.py runs/maft/transcripts/multiagent/seed-0/iteration-1/train.jsonl maft

Debates the questions of a transcript and ends with the run's adapters, byte for byte (runs/maft/adapters and maft). A round's requests, of
all agents, are one request of the session and share its batches. COLLOQUY names another program than `colloquy`.
"""
import json, os, re, struct, subprocess, sys

SEED, AGENTS, ROUNDS, ITERATIONS, MASK = 0, 3, 2, 2, 2**64 - 1
SETTINGS = {"learning_rate": 5e-4, "num_epochs": 2, "batch_size": 8}
ASK = "Make sure to state your answer at the end of the response."


def mix(z):  # SplitMix64's finaliser
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9 & MASK
    z = (z ^ (z >> 27)) * 0x94D049BB133111EB & MASK
    return z ^ (z >> 31)


def key(*fields):
    """The identity of a draw or a choice: FNV-1a over its fields, each after its length."""
    h = 0xCBF29CE484222325
    for field in fields:
        data = struct.pack("<Q", field) if isinstance(field, int) else field.encode()
        for byte in struct.pack("<Q", len(data)) + data:
            h = (h ^ byte) * 0x100000001B3 & MASK
    return mix(h)


def choose(state, items, count):
    """`count` of `items` in their order: Fisher and Yates over a stream of SplitMix64."""
    order = list(range(len(items)))
    for i in range(len(items) - 1, 0, -1):
        bits = MASK
        while bits >= MASK - MASK % (i + 1):
            state[0] = (state[0] + 0x9E3779B97F4A7C15) & MASK
            bits = mix(state[0])
        order[i], order[bits % (i + 1)] = order[bits % (i + 1)], order[i]
    return [items[i] for i in sorted(order[:count])]


class Session:
    def __init__(self):
        command = [os.environ.get("COLLOQUY", "colloquy"), "session", "--model", "embedded"]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.process.stdout.readline()  # what is loaded

    def __call__(self, op, **fields):
        print(json.dumps({"op": op, **fields}), file=self.process.stdin, flush=True)
        answer = json.loads(self.process.stdout.readline())
        return answer["result"] if "error" not in answer else sys.exit(answer["error"])


def answer_of(text):
    numbers = re.findall(r"(?<![\d.])-?\d+", text)
    return str(int(numbers[-1])) if numbers else None


def debates(session, iteration, questions):
    chats, turns = ([[[] for _ in range(AGENTS)] for _ in questions] for _ in range(2))
    pairs = [(i, n) for i in range(len(questions)) for n in range(AGENTS)]

    def draw(kind, round, records, max_tokens):
        for (i, n), record in zip(pairs, records):
            record |= {"key": key(SEED, iteration, "train", kind, questions[i], n, round, 0), "max_tokens": max_tokens}
        return session("generate", records=records, prompt_tokens=True)["records"]

    for round in range(1, ROUNDS + 1):
        asks = [f"What is the result of {questions[i]}? {ASK}" for i, _ in pairs]
        if round > 1:
            others = ["".join(f"One agent: {turns[i][m][-1]['text']}\n" for m in range(AGENTS) if m != n) for i, n in pairs]
            asks = [f"These are solutions of {questions[i]} from different agents:\n{said}Write a summary of the different solutions."
                    for (i, _), said in zip(pairs, others)]
            summaries = draw("summary", round, [{"messages": [{"role": "user", "content": a}]} for a in asks], 120)
            asks = [f"Here is a summary of solutions from other agents: {s['text']}\nUse it as additional advice and give an "
                    f"updated answer to {questions[i]}. {ASK}" for (i, _), s in zip(pairs, summaries)]
        [chats[i][n].append({"role": "user", "content": ask}) for (i, n), ask in zip(pairs, asks)]
        role = "generator" if round == 1 else "critic"
        said = draw("answer", round, [{"messages": chats[i][n], "adapter": f"{role}-{n}"} for i, n in pairs], 160)
        for (i, n), turn in zip(pairs, said):
            chats[i][n].append({"role": "assistant", "content": turn["text"]})
            turns[i][n].append({**turn, "answer": answer_of(turn["text"])})
    return turns


def lesson(turn, label):
    prompt, tokens = turn["prompt_tokens"], turn["tokens"]
    learnt = turn["answer"] == label and turn["finish_reason"] == "stop"
    return [{"tokens": prompt + tokens, "weights": [0] * len(prompt) + [1] * len(tokens)}] if learnt else []


def main(transcript, output):
    questions = [json.loads(line)["question"] for line in open(transcript)]
    session = Session()
    names = [f"{role}-{n}" for role in ("generator", "critic") for n in range(AGENTS)]
    [session("load", adapter=name, source=f"new:init-seed={key(SEED, 'adapter', name)}") for name in names]
    for iteration in range(1, ITERATIONS + 1):
        # Generators learn from first answers that match the vote, critics from last ones: by whether the first was wrong or right.
        sets, minus, plus = {name: [] for name in names}, {n: [] for n in range(AGENTS)}, {n: [] for n in range(AGENTS)}
        for i, agents in enumerate(debates(session, iteration, questions)):
            votes = [turns[-1]["answer"] for turns in agents]
            label = max(votes, key=lambda a: (a is not None) * votes.count(a))  # of several the first
            for n, turns in enumerate(agents if label is not None and 2 * votes.count(label) > AGENTS else []):
                sets[f"generator-{n}"] += lesson(turns[0], label)
                of_critic = plus if turns[0]["answer"] == label else minus
                of_critic[n] += [(i, example) for example in lesson(turns[-1], label)]
        for n in range(AGENTS):  # as many of both, where there are both
            state = [key(SEED, iteration, "train", "mix", f"critic-{n}")]
            size = min(len(minus[n]), len(plus[n])) or max(len(minus[n]), len(plus[n]))
            both = choose(state, minus[n], size) + choose(state, plus[n], size)
            sets[f"critic-{n}"] = [example for _, example in sorted(both, key=lambda pair: pair[0])]
        session("train", adapters={name: {"records": records, "key": key(SEED, iteration, "train", "shuffle", name), **SETTINGS}
                                   for name, records in sets.items() if records})
        [session("save", adapter=name, output=os.path.join(output, f"iteration-{iteration}", name)) for name in names]


if __name__ == "__main__":
    main(*sys.argv[1:])
