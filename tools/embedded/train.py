"""Pre-trains the embedded model on generated conversations.

Learning rates are constant after a warm-up and fall linearly to zero at the end. At two points the model so far writes
solutions of pre-training questions; later debates and summaries are mostly about those. Loss falls only on turns marked
to be learned (dialogues.py). Checkpoints (weights, optimizers, step) go to the output folder and can be continued from.
"""

import argparse
import random
import time
from dataclasses import asdict
from pathlib import Path

import torch
from tokenizers import Tokenizer

import dialogues
import network
import questions
import solutions

BUCKETS = (112, 128, 152, 240, 304, 384, 512)


class Text:
    """Token ids of conversations, through the chat template's tokens."""

    def __init__(self, folder):
        self.tokenizer = Tokenizer.from_file(str(Path(folder) / "tokenizer.json"))
        self.end = self.tokenizer.token_to_id("<|end|>")
        self.pad = self.tokenizer.token_to_id("<|pad|>")

    def encode(self, turns, answer=False):
        """(ids, learn flags) of (role, text, learn) turns; with `answer`, the assistant's turn is opened."""
        ids, learn = [], []
        for role, text, flag in turns:
            content = self.tokenizer.encode(text, add_special_tokens=False).ids
            ids += [self.tokenizer.token_to_id(f"<|{role}|>"), *content, self.end]
            learn += [False] + [flag] * (len(content) + 1)
        if answer:
            ids.append(self.tokenizer.token_to_id("<|assistant|>"))
        return ids, learn

    def decode(self, ids):
        return self.tokenizer.decode(ids)


def batches(source, text, tokens):
    """Endless (ids, learn) batches of about `tokens` tokens, each from one length bucket."""
    waiting = {length: [] for length in BUCKETS}
    while True:
        ids, learn = text.encode(source.draw())
        length = next((n for n in BUCKETS if len(ids) <= n), None)
        if length is None:
            continue
        waiting[length].append((ids, learn))
        if len(waiting[length]) == tokens // length:
            rows, waiting[length] = waiting[length], []
            yield (torch.tensor([ids + [text.pad] * (length - len(ids)) for ids, _ in rows]),
                   torch.tensor([learn + [False] * (length - len(learn)) for _, learn in rows]))


def first_answers(net, text, asked, count, temperature=1.0, generator=None):
    """`count` response texts (None if unfinished) for each question."""
    prompts = [text.encode([("user", dialogues.prompt("first", question=q.text), False)], True)[0] for q in asked]
    sampled = net.sample([p for p in prompts for _ in range(count)], text.end, 160, temperature, generator=generator)
    texts = [None if ids is None else text.decode(ids) for ids in sampled]
    return [texts[i * count:(i + 1) * count] for i in range(len(asked))]


def write_solutions(net, text, source, count):
    """What the model makes of `count` pre-training questions, five solutions each."""
    asked = [source.question() for _ in range(count)]
    parsed = [[solutions.parse(q, t) for t in texts if t] for q, texts in
              zip(asked, first_answers(net, text, asked, 5))]
    return [(q, [s for s in group if s]) for q, group in zip(asked, parsed)]


def quick_check(net, text, operands):
    """Sampled accuracy on dev questions, four samples each."""
    rng = random.Random(7)
    asked = [questions.draw(rng, operands, "dev") for _ in range(150)]
    answers = first_answers(net, text, asked, 4, generator=torch.Generator().manual_seed(7))
    right = sum(t is not None and t.endswith(f"The answer is {q.answer}.") for q, ts in zip(asked, answers) for t in ts)
    return right / 600


def rate(step, steps, decay, warmup=100):
    """Factor on the learning rates."""
    return min(1.0, (step + 1) / warmup, (steps - step) / (decay * steps))


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("output", type=Path, help="folder for checkpoints and log.txt")
    parser.add_argument("--tokenizer", type=Path, required=True, help="folder with tokenizer.json")
    parser.add_argument("--steps", type=int, default=6600, help="optimizer steps (default 6600)")
    parser.add_argument("--tokens", type=int, default=4096, help="tokens in a batch, padding included (default 4096)")
    parser.add_argument("--operands", type=int, nargs="+", default=[12, 16],
                        help="operand ranges (each 0..R-1) to draw questions from, alike often (default 12 16)")
    parser.add_argument("--muon-rate", type=float, default=0.015, help="Muon's rate, for matrices (default 0.015)")
    parser.add_argument("--adam-rate", type=float, default=3e-3, help="AdamW's rate, for the rest (default 3e-3)")
    parser.add_argument("--decay", type=float, default=0.65,
                        help="last part of the training, in which rates fall (default 0.65)")
    parser.add_argument("--write-at", type=float, nargs="*", default=[0.55, 0.8],
                        help="parts of the training after which the model writes solutions (default 0.55 0.8)")
    parser.add_argument("--first", type=float, default=0.6, help="part of the conversations that are first answers "
                        "only, once the model has written solutions (default 0.6)")
    parser.add_argument("--every", type=int, default=250, help="steps between checkpoints (default 250)")
    parser.add_argument("--resume", type=Path, help="checkpoint to continue from")
    parser.add_argument("--seed", type=int, default=0, help="seed of weights and text (default 0)")
    parser.add_argument("--threads", type=int, default=2, help="threads (default 2)")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    torch.manual_seed(arguments.seed)
    arguments.output.mkdir(parents=True, exist_ok=True)
    text = Text(arguments.tokenizer)
    net = network.Network(network.Shape(vocab=text.tokenizer.get_vocab_size()))
    matrices = [p for name, p in net.named_parameters() if p.ndim == 2 and name != "embedding"]
    others = [p for name, p in net.named_parameters() if p.ndim == 1 or name == "embedding"]
    optimizers = [torch.optim.Muon(matrices, lr=arguments.muon_rate, weight_decay=0.01),
                  torch.optim.AdamW(others, lr=arguments.adam_rate, betas=(0.9, 0.98), weight_decay=0.0)]
    bases = [arguments.muon_rate, arguments.adam_rate]
    source = dialogues.Source(random.Random(arguments.seed), arguments.operands, arguments.first)
    begin = 0
    if arguments.resume:
        state = torch.load(arguments.resume, weights_only=False)
        begin, source.sampled = state["step"], state["sampled"]
        source.rng.seed(arguments.seed + begin)
        net.load_state_dict(state["network"])
        for optimizer, saved in zip(optimizers, state["optimizers"]):
            optimizer.load_state_dict(saved)
    torch._dynamo.config.recompile_limit = 2 * len(BUCKETS)
    for layer in net.layers:
        layer.compile(dynamic=False)
    write_at = {int(part * arguments.steps) for part in arguments.write_at}
    log = (arguments.output / "log.txt").open("a")
    started, total, count = time.time(), 0.0, 0
    feed = batches(source, text, arguments.tokens)
    for step in range(begin, arguments.steps):
        if step in write_at:
            source.sampled = write_solutions(net, text, source, 1000)
        ids, learn = next(feed)
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=ids.shape[1] > 160):
            loss = net.loss(net(ids), ids, learn)
        loss.backward()
        for optimizer, base in zip(optimizers, bases):
            for group in optimizer.param_groups:
                group["lr"] = base * rate(step, arguments.steps, arguments.decay)
            optimizer.step()
            optimizer.zero_grad()
        total, count = total + loss.item(), count + 1
        if (step + 1) % 25 == 0:
            line = f"step {step + 1} loss {total / count:.4f} seconds {time.time() - started:.0f}"
            if (step + 1) % arguments.every == 0 or step + 1 == arguments.steps:
                line += "".join(f" dev@{r} {quick_check(net, text, r):.3f}" for r in sorted(set(arguments.operands)))
                torch.save({"step": step + 1, "network": net.state_dict(), "sampled": source.sampled,
                            "shape": asdict(net.shape),
                            "optimizers": [o.state_dict() for o in optimizers]},
                           arguments.output / f"step{step + 1}.pt")
            print(line, file=log, flush=True)
            total, count = 0.0, 0


if __name__ == "__main__":
    main()
