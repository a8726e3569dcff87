"""Measures the embedded model on dev questions: single samples, greedy, votes, and a debate round.

Reports are JSON on stdout. `vote@k` is the plurality of k first answers, ties shared evenly. The debate has three agents; its
summaries are sampled from the same model. No answer counts as wrong.
"""

import argparse
import json
import random
import re
from collections import Counter
from pathlib import Path

import torch

import dialogues
import network
import questions
from train import Text, first_answers


def answer_of(text):
    """The last number after "The answer is", or None."""
    found = re.findall(r"The answer is[^0-9-]*(-?\d+)", text or "")
    return int(found[-1]) if found else None


def vote(answers, right):
    """Probability that a plurality vote is right, ties broken evenly; None is no vote."""
    counts = Counter(a for a in answers if a is not None)
    top = max(counts.values(), default=0)
    winners = [a for a, n in counts.items() if n == top]
    return winners.count(right) / len(winners) if winners else 0.0


def mean_error(values):
    """Mean and its standard error over questions."""
    mean = sum(values) / len(values)
    variance = sum((v - mean) ** 2 for v in values) / max(1, len(values) - 1)
    return {"mean": round(mean, 4), "standard_error": round((variance / len(values)) ** 0.5, 4)}


def first_round(net, text, asked, samples, generator):
    """Measures of independent first answers; also returns the answers' texts."""
    texts = first_answers(net, text, asked, samples, generator=generator)
    answers = [[answer_of(t) for t in ts] for ts in texts]
    greedy = [ts[0] for ts in first_answers(net, text, asked, 1, temperature=0)]
    shares = [sum(a == q.answer for a in row) / samples for q, row in zip(asked, answers)]
    votes = {k: [sum(vote(row[i:i + k], q.answer) for i in range(0, samples - k + 1, k)) / (samples // k)
                 for q, row in zip(asked, answers)] for k in (3, 5, 16, 64) if k <= samples}
    lengths = [len(text.tokenizer.encode(t).ids) for ts in texts for t in ts if t]
    result = {
        "single": mean_error(shares),
        "greedy": mean_error([float(answer_of(t) == q.answer) for q, t in zip(asked, greedy)]),
        **{f"vote@{k}": mean_error(v) for k, v in votes.items()},
        **{f"vote@{k} - single": mean_error([a - b for a, b in zip(v, shares)]) for k, v in votes.items()},
        f"plurality@{samples} wrong": round(1 - sum(vote(row, q.answer) for q, row in zip(asked, answers)) / len(asked), 4),
        f"any of {samples} right": round(sum(q.answer in row for q, row in zip(asked, answers)) / len(asked), 4),
        "parsed": round(sum(a is not None for row in answers for a in row) / (samples * len(asked)), 4),
        "answer tokens": {"mean": round(sum(lengths) / len(lengths), 1), "longest": max(lengths)},
    }
    return result, texts


def debate(net, text, asked, texts, rounds, concatenate, generator):
    """Measures of a debate of three agents from three first answers of each question."""
    agents = range(3)
    chats = [[[("user", dialogues.prompt("first", question=q.text), False), ("assistant", t or "", False)]
              for t in group] for q, group in zip(asked, texts)]
    current = [list(group) for group in texts]
    result = {"round 1": society(asked, current)}
    parsed = []
    for number in range(2, rounds + 1):
        others = [[current[i][k] or "" for k in agents if k != n] for i in range(len(asked)) for n in agents]
        flat = [(q, n, i) for i, q in enumerate(asked) for n in agents]
        if concatenate:
            news = [dialogues.prompt("debate-concat", question=q.text, responses=seen)
                    for (q, _, _), seen in zip(flat, others)]
        else:
            requests = [text.encode([("user", dialogues.prompt("summary", question=q.text, responses=seen), False)],
                                    True)[0] for (q, _, _), seen in zip(flat, others)]
            written = net.sample(requests, text.end, 240, generator=generator)
            faithful = [ids is not None and all(f"the answer {answer_of(o)}." in text.decode(ids) for o in seen)
                        for ids, seen in zip(written, others)]
            result[f"summaries before round {number} with both answers"] = round(sum(faithful) / len(faithful), 4)
            news = [dialogues.prompt("debate", question=q.text, summary=text.decode(ids or []))
                    for (q, _, _), ids in zip(flat, written)]
        for (_, n, i), new in zip(flat, news):
            chats[i][n].append(("user", new, False))
        prompts = [text.encode(chats[i][n], True)[0] for _, n, i in flat]
        replies = [None if ids is None else text.decode(ids)
                   for ids in net.sample(prompts, text.end, 200, generator=generator)]
        for (_, n, i), reply in zip(flat, replies):
            chats[i][n].append(("assistant", reply or "", False))
            current[i][n] = reply
        parsed += [answer_of(reply) is not None for reply in replies]
        result[f"round {number}"] = society(asked, current)
        result[f"prompt tokens of round {number}"] = round(sum(map(len, prompts)) / len(prompts), 1)
    result["parsed"] = round(sum(parsed) / len(parsed), 4)
    return result


def society(asked, texts):
    """Accuracy of one agent and of the vote, and how often all agree."""
    answers = [[answer_of(t) for t in group] for group in texts]
    agree = [len(set(row)) == 1 and row[0] is not None for row in answers]
    majority = [max(Counter(a for a in row if a is not None).values(), default=0) * 2 > len(row) for row in answers]
    right = [vote(row, q.answer) for q, row in zip(asked, answers)]
    covered = [r for r, m in zip(right, majority) if m]
    return {
        "single": mean_error([sum(a == q.answer for a in row) / len(row) for q, row in zip(asked, answers)]),
        "vote of 3": mean_error(right),
        "all agree": round(sum(agree) / len(agree), 4),
        "pseudo-label coverage": round(sum(majority) / len(majority), 4),
        "pseudo-labels right": round(sum(covered) / max(1, len(covered)), 4),
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", type=Path, help="model folder, or checkpoint of train.py (with --tokenizer)")
    parser.add_argument("--tokenizer", type=Path, help="folder with tokenizer.json (default: the model folder)")
    parser.add_argument("--operands", type=int, default=18, help="operands are 0..R-1 (default 18)")
    parser.add_argument("--questions", type=int, default=300, help="dev questions (default 300)")
    parser.add_argument("--samples", type=int, default=64, help="first answers of each question (default 64)")
    parser.add_argument("--debates", type=int, default=4, help="debates of each question (default 4)")
    parser.add_argument("--rounds", type=int, default=2, help="rounds of a debate (default 2)")
    parser.add_argument("--concatenate", action="store_true", help="show the others' answers instead of a summary")
    parser.add_argument("--seed", type=int, default=1, help="seed of questions and samples (default 1)")
    parser.add_argument("--threads", type=int, default=2, help="threads (default 2)")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    text = Text(arguments.tokenizer or arguments.model)
    if arguments.model.is_dir():
        net = network.load(arguments.model)
    else:
        net = network.from_checkpoint(arguments.model)
    rng = random.Random(arguments.seed)
    asked = [questions.draw(rng, arguments.operands, "dev") for _ in range(arguments.questions)]
    generator = torch.Generator().manual_seed(arguments.seed)
    result, texts = first_round(net, text, asked, arguments.samples, generator)
    report = {"questions": len(asked), "operands": arguments.operands, "first answers": result}
    if arguments.debates:
        repeated = [q for q in asked for _ in range(arguments.debates)]
        groups = [ts[3 * i:3 * i + 3] for ts in texts for i in range(arguments.debates)]
        report["debate"] = debate(net, text, repeated, groups, arguments.rounds, arguments.concatenate, generator)
    print(json.dumps(report, indent=1))


if __name__ == "__main__":
    main()
