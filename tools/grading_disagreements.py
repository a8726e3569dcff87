#!/usr/bin/env python3
"""Compare our grading of mathematical answers with the public graders, and list each disagreement with its reason.

    python tools/grading_disagreements.py --colloquy target/release/colloquy --math-verify-tests Math-Verify/tests

The graders, none of which our tests need (run this by hand, with a network or a wheel folder):

    pip install math-verify==0.9.0             # verify() and, in its source distribution, tests/
    pip install --no-deps lm-eval==0.4.13      # is_equiv and last_boxed_only_string of hendrycks_math

`is_equiv` is taken from lm-evaluation-harness, which carries the code of hendrycks/math; it is not written again here.

Pairs come from our tables (tests/data/math_*.tsv), which say what we want, and from the tests of
math-verify, which say what it wants; an answer in a worked solution is extracted as
lm-evaluation-harness does, from its last \\boxed. Each pair is graded by all. Responses are the same
texts of math-verify's tests that hold a box, and the sentences of `[numbers]` in the table of
reasons: what lm-evaluation-harness extracts from them (the last box; GSM8K's flexible-extract) is
compared with what `colloquy grade` reads. A disagreement is a
pair on which a public grader, or an expectation of math-verify's tests, differs from us. Each must
match a reason in tools/grading_disagreements.toml; those that match none are printed last, and make
the exit code 1.
"""

import argparse
import ast
import importlib.util
import json
import re
import subprocess
import sys
import tempfile
import tomllib
import types
from collections import Counter
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
TABLES = ["tests/data/math_equivalence.tsv", "tests/data/math_kinds.tsv"]


def our_pairs():
    """Pairs of our tables, with what we want."""
    for name in TABLES:
        for line in (ROOT / name).read_text(encoding="utf-8").splitlines():
            if line[:2] in ("=\t", "!\t"):
                sign, a, b = line.split("\t")
                yield {"source": Path(name).stem, "answers": [a, b], "wanted": sign == "="}


def math_verify_pairs(folder):
    """(gold, prediction, expected) of every parametrized test, read from the source and not run."""
    for path in sorted(Path(folder).glob("test_*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if not (isinstance(node, ast.Call) and getattr(node.func, "attr", "") == "parametrize"):
                continue
            for row in getattr(node.args[1], "elts", []):
                try:
                    values = ast.literal_eval(row)
                except ValueError:
                    continue
                if len(values) >= 3 and all(isinstance(v, str) for v in values[:2]) and values[2] in (0, 1):
                    yield {"source": path.stem, "answers": list(values[:2]), "wanted": bool(values[2])}


def hendrycks():
    """The module of lm-evaluation-harness with is_equiv, without the packages that only its data needs."""
    sys.modules.setdefault("datasets", types.SimpleNamespace(Dataset=object))
    found = importlib.util.find_spec("lm_eval")
    if found is None:
        sys.exit("lm-eval is not installed: pip install --no-deps lm-eval==0.4.13")
    path = Path(found.submodule_search_locations[0]) / "tasks" / "hendrycks_math" / "utils.py"
    spec = importlib.util.spec_from_file_location("hendrycks_math", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def answer_of(text, module):
    """The answer in a test's string: its last box as lm-evaluation-harness extracts it, else its last formula, else the text."""
    boxed = module.last_boxed_only_string(text)
    if boxed is not None:
        try:
            return module.remove_boxed(boxed)
        except AssertionError:
            return None
    formulas = re.findall(r"\$\$(.+?)\$\$|\$(.+?)\$|\\\[(.+?)\\\]|\\\((.+?)\\\)", text, re.DOTALL)
    return next((part for part in formulas[-1] if part), text) if formulas else text


def graded(colloquy, task, records):
    """What `colloquy grade` says of records, in their order."""
    with tempfile.TemporaryDirectory() as folder:
        answers, output = Path(folder) / "answers.jsonl", Path(folder) / "graded.jsonl"
        lines = [json.dumps({"id": i} | record) for i, record in enumerate(records)]
        answers.write_text("\n".join(lines) + "\n", encoding="utf-8")
        command = [colloquy, "grade", "--task", task, "--answers", answers, "--output", output]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            sys.exit(f"{colloquy} grade: exit code {done.returncode}\n{done.stderr}")
        results = [json.loads(line) for line in output.read_text(encoding="utf-8").splitlines()]
    if len(results) != len(records):
        sys.exit(f"{colloquy} grade: {len(results)} results for {len(records)} records")
    return results


def responses(colloquy, module, tests, sentences):
    """Texts with what lm-evaluation-harness extracts and what we read, as a pair that should be equal."""
    boxes = sorted({text for pair in math_verify_pairs(tests) for text in pair["answers"] if "\\boxed" in text})
    flexible = re.compile(r"(-?[$0-9.,]{2,})|(-?[0-9]+)")  # gsm8k.yaml, which then drops commas, $ and a last dot

    def last_box(text):
        box = module.last_boxed_only_string(text)
        try:
            return box and module.remove_boxed(box)
        except AssertionError:
            return None

    def last_number(text):
        found = [a or b for a, b in flexible.findall(text)]
        return re.sub(r"[,$]", "", found[-1]).removesuffix(".") if found else None

    for task, texts, theirs, name, field in [
        ("math", boxes, last_box, "lm-eval last box", "written"),
        ("gsm8k", sentences, last_number, "lm-eval flexible-extract", "read"),
    ]:
        records = [{"response": text, "reference": "#### 1"} for text in texts]
        for text, result in zip(texts, graded(colloquy, task, records), strict=True):
            yield {"grader": name, "answers": [text, str(theirs(text))], "read": result[field][0], "equal": True}


def verified(a, b):
    """Whether math-verify calls the prediction `b` right for the gold answer `a`; None where it reads nothing."""
    from math_verify import parse, verify

    gold, prediction = (parse(f"${text}$", parsing_timeout=None) for text in (a, b))
    return verify(gold, prediction, timeout_seconds=None) if gold and prediction else None


def reason(reasons, grader, pair):
    """The first reason of the table whose grader and patterns match; patterns may match either answer."""
    for entry in reasons:
        if grader not in entry["graders"] or entry.get("equal", pair["equal"]) != pair["equal"]:
            continue
        if any(re.search(pattern, text) for pattern in entry["patterns"] for text in pair["answers"]):
            return entry["reason"]
    return None


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--colloquy", required=True, help="the binary")
    parser.add_argument("--math-verify-tests", required=True, help="the folder tests/ of math-verify's source")
    parser.add_argument("--reasons", default=ROOT / "tools/grading_disagreements.toml", type=Path)
    parser.add_argument("--quiet", action="store_true", help="print counts, and only what has no reason")
    options = parser.parse_args()

    module = hendrycks()
    pairs = list(our_pairs())
    for pair in math_verify_pairs(options.math_verify_tests):
        pair["answers"] = [answer_of(text, module) for text in pair["answers"]]
        if all(pair["answers"]):
            pairs.append(pair)
    results = graded(options.colloquy, "math", [{"answers": pair["answers"]} for pair in pairs])
    for pair, result in zip(pairs, results, strict=True):
        pair.update(equal=result["equal"], read=result["read"])

    table = tomllib.loads(options.reasons.read_text(encoding="utf-8"))
    reasons = table["reason"]
    sentences = table["numbers"]["texts"]
    pairs += responses(options.colloquy, module, options.math_verify_tests, sentences)
    agree, explained, unexplained = Counter(), Counter(), []
    for pair in pairs:
        a, b = pair["answers"]
        if "grader" in pair:
            verdicts = {pair["grader"]: b.strip() == str(pair["read"]).strip()}
        else:
            verdicts = {
                "math-verify": verified(a, b),
                "hendrycks": module.is_equiv(a, b),
                pair["source"]: pair["wanted"],
            }
        for grader, verdict in verdicts.items():
            if verdict is None or verdict == pair["equal"]:
                agree[grader] += 1
                continue
            why = reason(reasons, grader, pair)
            line = f"{grader}: {a}  |  {b}: {'equal' if verdict else 'different'}, ours {pair['read']}"
            if why is None:
                unexplained.append(line)
            else:
                explained[(grader, why)] += 1
                if not options.quiet:
                    print(f"{line}\n    {why}")
    for grader, count in sorted(agree.items()):
        print(f"{grader}: {count} agree")
    for (grader, why), count in sorted(explained.items()):
        print(f"{grader}: {count} differ: {why}")
    print(f"{len(unexplained)} without a reason")
    print("\n".join(unexplained))
    return 1 if unexplained else 0


if __name__ == "__main__":
    sys.exit(main())
