#!/usr/bin/env python3
"""Recounts a run: every accuracy of metrics.jsonl and report.csv again, from the transcripts alone, with a grader of its own.

    python3 tools/recount.py RUN [--csv FILE]... [--data FILE-OR-FOLDER]...

RUN is a run folder. Nothing that the program concluded is used: answers are extracted again from the texts of the responses, votes are
counted again, and right is what this script finds right:
- arithmetic: the expression itself is evaluated; the stored reference answers are compared with that,
- tasks from files: the answer in the data files that the configuration names (or --data, where they have moved). Without them, the
  reference in the transcripts is used, and said so.
Equality: numbers as fractions, letters of choices, texts. Mathematics by math-verify if that is installed (pip install math-verify), else
by a small comparison of fractions and texts, which may miss equal answers.
Ties: the winner must be one of the tied answers; where ties are random it must be the one that the run's seed draws (SplitMix64 over the
question, as in src/debate): votes over samples leave no other trace.

Each disagreement is one line: lane, iteration, file, question, what the run says, what the recount says. Accuracies that could not be
recounted are listed too; measures of diversity are none, they come from likelihoods. Exit code: 0 all recounted and equal, 1 any disagreement or anything not recounted, 2 wrong usage.
Needs Python 3.11 and its standard library.
"""

import argparse
import ast
import csv
import json
import math
import re
import sys
from collections import defaultdict
from fractions import Fraction
from pathlib import Path

try:
    import math_verify
except ImportError:
    math_verify = None

TOLERANCE = 1e-9
CSV_TOLERANCE = 1e-6
# Of metrics.jsonl, as in src/measure/record.rs.
SCHEMA = 1

# ------------------------------------------------------------------ answers in texts

MINUS = str.maketrans({"\u2212": "-", "\u2013": "-", "\ufe63": "-", "\uff0d": "-", "\u00a0": " ", "\u2009": " ", "\u202f": " "})
GROUPED = r"[1-9]\d{0,2}(?:,\d{3})+(?!\d)|[1-9]\d{0,2}(?: \d{3})+(?!\d)"
NUMBER = re.compile(
    rf"(?<![A-Za-z_\d])(?:(?P<mixed>\d+) ?(?P<mt>\d{{1,3}})/(?P<mb>\d+)|(?P<int>{GROUPED}|\d+)?(?P<dec>\.\d+)?(?P<exp>[eE][+-]?\d{{1,3}}(?![A-Za-z\d]))?(?:/(?P<den>\d+))?)"
)


def plain(text):
    """One kind of minus and space, fractions as a/b, no LaTeX spacing."""
    text = text.translate(MINUS)
    for old, new in [("{,}", ","), ("\\!", ""), ("\\,", " "), ("\\;", " "), ("\\ ", " "), ("\\$", "$"), ("\\%", "%"), ("\\left", ""), ("\\right", "")]:
        text = text.replace(old, new)
    text = re.sub(r"\\(?:text|textbf|mathrm|mathbf)\{([^{}]*)\}", r"\1", text)
    text = re.sub(r"(\d) ?\\[dt]?frac\{(\d+)\}\{(\d+)\}", r"\1 \2/\3", text)
    text = re.sub(r"\\[dt]?frac\{-(\d+)\}\{(\d+)\}", r"-\1/\2", text)
    text = re.sub(r"\\[dt]?frac\{(\d+)\}\{(\d+)\}", r"\1/\2", text)
    return re.sub(r"\\[dt]?frac(\d)(\d)", r"\1/\2", text)


def numbers(text):
    """All numbers of a plain text, as (start, end, Fraction)."""
    found, at = [], 0
    while at < len(text):
        match = NUMBER.match(text, at)
        if not match or not (match["int"] or match["dec"] or match["mixed"]):
            # Digits that are part of a name are passed over whole.
            skip = re.match(r"[A-Za-z_]+[\d.]*\d", text[at:])
            at += skip.end() if skip else 1
            continue
        try:
            value = number_of(match)
            end = match.end()
        except ZeroDivisionError:
            # 4/0 is a 4 and a 0.
            end = text.index("/", match.start())
            value = Fraction(re.sub("[, ]", "", text[match.start():end]).split(" ")[-1])
        found.append((match.start(), end, -value if is_negative(text, match.start()) else value))
        at = end
    return found


def number_of(match):
    if match["mixed"]:
        top, bottom = int(match["mt"]), int(match["mb"])
        if top < bottom:
            return int(match["mixed"]) + Fraction(top, bottom)
    value = Fraction(re.sub("[, ]", "", match["int"] or "0") if match["int"] else 0)
    if match["dec"]:
        value += Fraction("0" + match["dec"])
    if match["exp"]:
        value *= Fraction(10) ** int(match["exp"][1:])
    return value / int(match["den"]) if match["den"] else value


def is_negative(text, start):
    """Whether the minus before a number is its sign: not where an operand stands before it."""
    before = text[:start].rstrip("$£€¥")
    tight = before.endswith("-")
    before = before.rstrip()
    if not before.endswith("-"):
        return False
    before = before[:-1].rstrip("$£€¥")
    if not tight:
        return before.rstrip().endswith("=")
    touching = before[-1:]
    operand = re.compile(r"[\d)\]}%]")
    return not (touching.isalnum() or operand.match(touching) or operand.match(before.rstrip(" ")[-1:]))


def one_number(text):
    """The value of a text that is one number with a unit or a sign of currency."""
    text = plain(text.strip().strip("*"))
    for wrap in ("\\(", "\\)", "\\[", "\\]"):
        text = text.replace(wrap, "")
    found = numbers(text)
    if len(found) != 1:
        return None
    start, end, value = found[0]
    rest = text[:start].rstrip("$").rstrip().rstrip("-") + text[end:].strip("*")
    return None if re.search(r"[\\^_/+*-]", rest) else value


def braces(text, command):
    """The content of the last `command{...}`, by counting braces."""
    opened = [m.end() for m in re.finditer(re.escape(command) + r"\s*\{", text)]
    if not opened:
        return None
    depth, escaped = 1, False
    for i in range(opened[-1], len(text)):
        c = text[i]
        if escaped:
            escaped = False
        elif c == "\\":
            escaped = True
        elif c in "{}":
            depth += 1 if c == "{" else -1
            if depth == 0:
                return text[opened[-1]:i].strip() or None
    return None


class Grader:
    """Reads and compares answers as one task does."""

    DEFAULTS = {
        "arithmetic": ("last-number", "whole", "number"),
        "gsm8k": ("boxed, last-number", "after-hashes", "number"),
        "math": ("boxed", None, "math"),
        "mmlu": ("choice", "whole", "choice"),
        "custom": ("boxed", "whole", "exact"),
    }

    def __init__(self, task):
        self.task = task
        self.name = task.get("name", "arithmetic")
        extraction, reference, equality = self.DEFAULTS.get(self.name, self.DEFAULTS["custom"])
        self.extractions = [e.strip() for e in task.get("extraction", extraction).split(",")]
        self.reference_rule = task.get("reference", reference)
        self.equality = task.get("equality", equality)
        self.pattern = task.get("pattern")

    def extract(self, rule, text, choices):
        if rule == "boxed":
            return braces(text, "\\boxed") or braces(text, "\\fbox")
        if rule == "last-number":
            found = numbers(plain(text))
            return found[-1][2] if found else None
        if rule == "number-after":
            marker, answer = (self.pattern or "answer is").lower(), None
            for part in plain(text).lower().split(marker)[1:]:
                line = part.split("\n")[0].split(". ")[0]
                tail = numbers(line[line.rfind("="):]) if "=" in line else []
                found = tail or numbers(line)
                answer = found[0][2] if found else answer
            return answer
        if rule == "choice":
            letters = "".join(chr(65 + i) for i in range(choices))
            found = [m.upper() for m in re.findall(r"\(\s*\**([A-Za-z])\**\s*\)", text) if m.upper() in letters]
            if not found:
                found = re.findall(r"(?i:answer)(?i: is)?:?\s*\**([A-Z])\b", text)
                found = [m for m in found if m in letters]
            return found[-1] if found else None
        if rule == "regex":
            found = list(re.finditer(self.pattern, text))
            return (found[-1][1] if found[-1].re.groups else found[-1][0]) if found else None
        raise SystemExit(f"recount.py: extraction `{rule}` is unknown here")

    def read(self, text, choices=26):
        """The answer of a response, None without one."""
        for rule in self.extractions:
            raw = self.extract(rule, text, choices)
            value = None if raw is None else self.value(raw)
            if value is not None and not (self.equality == "choice" and ord(value) - 65 >= choices):
                return value
        return None

    def value(self, raw):
        """What is compared of an answer as written."""
        if self.equality == "number":
            return raw if isinstance(raw, Fraction) else one_number(raw)
        raw = str(raw)
        if self.equality == "choice":
            letters = [c for c in raw if c.isalnum()]
            return letters[0].upper() if len(letters) == 1 and letters[0].isascii() and letters[0].isalpha() else None
        if self.equality == "math":
            return Mathematics(raw) if raw.strip() else None
        return " ".join(raw.split()) or None

    def same(self, a, b):
        return a is not None and b is not None and a == b

    def reference(self, field, text):
        rule = self.reference_rule or ("boxed" if field == "solution" else "whole")
        if rule == "whole":
            return self.value(text)
        if rule == "after-hashes":
            return self.value(text.rpartition("####")[2])
        return self.value(self.extract(rule, text, 26) or "")


class Mathematics:
    """A mathematical answer, compared by math-verify, or as a fraction, or as text."""

    def __init__(self, raw):
        self.raw = raw
        self.number = one_number(raw)
        text = re.sub(r"\\(?:left|right|,|;|!|text|mathrm|displaystyle|d(?=frac)|t(?=frac))|[\s$.]|\\$", "", raw)
        self.text = re.sub(r"\\[dt]frac", r"\\frac", text).lower()
        self.parsed = None

    def __eq__(self, other):
        if self.number is not None and other.number is not None:
            return self.number == other.number
        if self.text == other.text:
            return True
        if math_verify is None:
            return False
        for answer in (self, other):
            if answer.parsed is None:
                answer.parsed = math_verify.parse(f"${answer.raw}$")
        return math_verify.verify(self.parsed, other.parsed) or math_verify.verify(other.parsed, self.parsed)

    __hash__ = None

    def __str__(self):
        return self.raw


# ------------------------------------------------------------------ the truth

EXPRESSION = re.compile(r"\d+(?:[-+*]\d+)*")


def evaluate(node):
    """The value of a parsed sum of products of whole numbers."""
    if isinstance(node, ast.Expression):
        return evaluate(node.body)
    if isinstance(node, ast.Constant):
        return int(node.value)
    left, right = evaluate(node.left), evaluate(node.right)
    return {ast.Add: left + right, ast.Sub: left - right, ast.Mult: left * right}[type(node.op)]


def data_records(path):
    """Records of a data file or folder, as dictionaries."""
    path = Path(path)
    if path.is_dir():
        for file in sorted(p for p in path.rglob("*") if p.suffix in (".jsonl", ".json", ".csv") and not p.name.startswith(".")):
            yield from data_records(file)
    elif path.suffix == ".csv":
        with path.open(newline="", encoding="utf-8") as file:
            for row in csv.reader(file):
                yield {"question": row[0], "choices": row[1:5], "answer": row[5]}
    elif path.suffix == ".json":
        whole = json.loads(path.read_text(encoding="utf-8"))
        yield from whole if isinstance(whole, list) else [whole]
    else:
        for line in path.read_text(encoding="utf-8").split("\n"):
            if line.strip():
                yield json.loads(line)


class Truth:
    """Right answers and numbers of choices of one task, by question."""

    def __init__(self, task, grader, extra):
        self.grader, self.answers, self.choices, self.missing = grader, {}, {}, set()
        self.generated = grader.name == "arithmetic" and not task.get("data")
        paths = [task[key] for key in ("data", "dev_data", "test_data") if task.get(key)] + list(extra)
        for path in paths if not self.generated else []:
            if Path(path).exists():
                for record in data_records(path):
                    self.add(task, record)
            else:
                self.missing.add(path)

    def add(self, task, record):
        key = task.get("question_field") or ("problem" if self.grader.name == "math" else "question")
        fields = [task["answer_field"]] if task.get("answer_field") else ["answer"] + (["solution"] if self.grader.name == "math" else [])
        field = next((f for f in fields if f in record), None)
        if key not in record or field is None:
            return
        question, answer = str(record[key]).strip(), record[field]
        if self.grader.name == "mmlu":
            choices = [str(c).strip() for c in record["choices"]]
            question += ": " + ", ".join(f"{chr(65 + i)}) {c}" for i, c in enumerate(choices))
            answer = chr(65 + answer) if isinstance(answer, int) else answer
        if isinstance(record.get("choices"), list):
            self.choices[question] = len(record["choices"])
        self.answers[question] = self.grader.reference(field, str(answer))

    def of(self, question, stored):
        """The right answer and whether it is this script's own."""
        if self.generated and EXPRESSION.fullmatch(question):
            return Fraction(evaluate(ast.parse(re.sub(r"\b0+(?=\d)", "", question), mode="eval"))), True
        if question in self.answers:
            return self.answers[question], True
        return (None if stored is None else self.grader.value(stored)), False


# ------------------------------------------------------------------ chance, as runs draw it

BITS = (1 << 64) - 1


def mix(z):
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & BITS
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & BITS
    return z ^ (z >> 31)


def tie_key(seed, iteration, purpose, question, round_):
    """FNV-1a over length-prefixed fields, then SplitMix64's finaliser."""
    number = lambda n: n.to_bytes(8, "little")
    fields = [number(seed), number(iteration), purpose.encode(), b"tie", question.encode(), number(0), number(round_), number(0)]
    h = 0xCBF29CE484222325
    for field in fields:
        for byte in number(len(field)) + field:
            h = ((h ^ byte) * 0x100000001B3) & BITS
    return mix(h)


def drawn(key, n):
    """Uniform below n, by rejection."""
    zone = BITS - BITS % n
    while True:
        key = (key + 0x9E3779B97F4A7C15) & BITS
        bits = mix(key)
        if bits < zone:
            return bits % n


# ------------------------------------------------------------------ the recount


def share(values):
    values = list(values)
    return sum(values) / len(values) if values else 0.0


def error_of(values):
    values = [float(v) for v in values]
    mean = share(values)
    return math.sqrt(share((v - mean) ** 2 for v in values) / len(values)) if values else 0.0


class Lane:
    """One arm and seed: its transcripts, its grader, and what does not agree."""

    def __init__(self, run, arm, seed, config, extra, report):
        self.run, self.arm, self.seed, self.report = run, arm, seed, report
        self.config, self.extra, self.sections = config, extra, {}
        self.ties = config.get("debate", {}).get("ties", "random")
        self.agreement = config.get("debate", {}).get("min_agreement", 0)

    def tools(self, split):
        """Grader and truth of a split; transfer splits have a task of their own."""
        key = "transfer" if split.startswith("transfer") else "task"
        if key not in self.sections:
            task = self.config.get(key, {})
            grader = Grader(task)
            self.sections[key] = grader, Truth(task, grader, self.extra)
        return self.sections[key]

    def say(self, iteration, place, question, run_says, recount_says):
        question = " ".join(question.split())
        question = question if len(question) < 60 else question[:57] + "..."
        self.report.disagree(
            f"{self.arm}/seed-{self.seed}, iteration {iteration}, {place}, {question!r}: the run says {run_says}, the recount {recount_says}"
        )

    def transcript(self, iteration, name):
        path = self.run / "transcripts" / self.arm / f"seed-{self.seed}" / f"iteration-{iteration}" / f"{name}.jsonl"
        if not path.exists():
            return None
        return [json.loads(line) for line in path.read_text(encoding="utf-8").split("\n") if line.strip()]

    def turns(self, iteration, place, split, record, turns):
        """The answers of a record's turns again, and whether each is right."""
        grader, truth = self.tools(split)
        question = record["question"]
        right, own = truth.of(question, record.get("reference"))
        if not own:
            self.report.borrowed.add(f"{self.arm}/seed-{self.seed}, {split}")
        if own and record.get("reference") is not None and grader.equality != "math":
            if not grader.same(right, grader.value(record["reference"])):
                self.say(iteration, place, question, f"the reference is {record['reference']}", right)
        answers = []
        for turn in turns:
            said = (turn.get("response") or {}).get("text")
            answer = None if said is None else grader.read(said, truth.choices.get(question, 26))
            stored = turn.get("answer")
            agent = f"agent {turn['agent']}"
            if (answer is None) != (stored is None):
                self.say(iteration, place, question, f"{agent} answers {stored}", answer)
            elif answer is not None and grader.equality != "math" and not grader.same(answer, grader.value(stored)):
                self.say(iteration, place, question, f"{agent} answers {stored}", answer)
            answers.append(answer)
        if grader.equality == "math":
            # Canonical forms are not parsed here: they must be equal where, and only where, the answers as written are.
            for i, a in enumerate(answers):
                for j in range(i):
                    stored = turns[i].get("answer") == turns[j].get("answer")
                    if a is not None and answers[j] is not None and (a == answers[j]) != stored:
                        self.say(iteration, place, question, f"equal: {stored} of {turns[j]['answer']} and {turns[i]['answer']}", f"{answers[j]} and {a}")
        if isinstance(record.get("right"), list):
            for turn, answer, stored in zip(turns, answers, record["right"]):
                if stored != grader.same(answer, right):
                    self.say(iteration, place, question, f"agent {turn['agent']} is right: {stored}", f"{answer}, right is {right}")
        return answers, right

    def vote(self, iteration, split, question, answers, round_):
        """Winner, votes and whether there is a tie."""
        grader, _ = self.tools(split)
        groups = []
        for answer in answers:
            if answer is None:
                continue
            for group in groups:
                if grader.same(group[0], answer):
                    group[1] += 1
                    break
            else:
                groups.append([answer, 1])
        if not groups:
            return None, 0, []
        most = max(count for _, count in groups)
        top = [answer for answer, count in groups if count == most]
        if len(top) == 1 or self.ties == "first":
            return top[0], most, top
        if self.ties == "largest":
            return max(top, key=str) if grader.equality != "math" else None, most, top
        purpose = "train" if split == "train" else split
        return top[drawn(tie_key(self.seed, iteration, purpose, question, round_), len(top))], most, top

    def check_vote(self, iteration, place, split, question, stored, answers, turns, round_):
        """A stored vote against the recount; the winner that counts from here on."""
        grader, _ = self.tools(split)
        winner, most, top = self.vote(iteration, split, question, answers, round_)
        say = stored.get("answer")
        if (say is None) != (not top) or stored.get("votes") != most or bool(stored.get("tie")) != (len(top) > 1):
            self.say(iteration, place, question, f"the vote is {say} with {stored.get('votes')}", f"{winner} with {most}")
            return winner
        if not top:
            return None
        # The stored winner among the answers as this script reads them: that of an agent with the same stored answer.
        given = next((a for a, t in zip(answers, turns) if t.get("answer") == say and a is not None), None)
        if given is None or not any(grader.same(given, t) for t in top):
            self.say(iteration, place, question, f"the vote is {say}", "not one of those with most votes: " + ", ".join(map(str, top)))
            return winner
        if self.ties != "largest" and not grader.same(given, winner):
            self.say(iteration, place, question, f"the tie is won by {say}", f"it is by {winner}")
        return given if self.ties == "largest" else winner

    def debates(self, iteration, name, split):
        """By question: the record, and for each round answers, rights of the agents and of the vote."""
        records = self.transcript(iteration, name)
        if records is None:
            return None
        out = []
        for record in records:
            grader, rounds = self.tools(split)[0], []
            right = None
            for m, round_ in enumerate(record["rounds"]):
                place = f"{name}.jsonl, round {m + 1}"
                answers, right = self.turns(iteration, place, split, record, round_["turns"])
                winner = self.check_vote(iteration, place, split, record["question"], round_["vote"], answers, round_["turns"], m + 1)
                rounds.append((answers, [grader.same(a, right) for a in answers], grader.same(winner, right), winner))
            if record["vote"] != record["rounds"][-1]["vote"]:
                self.say(iteration, f"{name}.jsonl", record["question"], f"the final vote is {record['vote']}", record["rounds"][-1]["vote"])
            if isinstance(record.get("right"), bool) and record["right"] != rounds[-1][2]:
                self.say(iteration, f"{name}.jsonl", record["question"], f"the vote is right: {record['right']}", f"{rounds[-1][3]}, right is {right}")
            out.append((record, right, rounds))
        return out

    def answers(self, iteration, name, split):
        """By question: the record, the answers, whether each is right, the right answer."""
        records = self.transcript(iteration, name)
        if records is None:
            return None
        out = []
        for record in records:
            answers, right = self.turns(iteration, f"{name}.jsonl", split, record, record["turns"])
            out.append((record, answers, [self.tools(split)[0].same(a, right) for a in answers], right))
        return out

    # -------------------------------------------------------------- metrics

    def evaluation(self, iteration, split, metrics):
        """All accuracies of an evaluation, by their paths in its metrics."""
        found, grader = {}, self.tools(split)[0]
        greedy = self.answers(iteration, f"{split}-greedy", split)
        debates = self.debates(iteration, f"{split}-debate", split)
        samples = self.answers(iteration, f"{split}-samples", split)
        outcomes = {}

        def put(path, by_question):
            found[path + ("accuracy",)] = share(by_question)
            found[path + ("standard_error",)] = error_of(by_question)

        def put_turns(path, rights):
            put(path, [share(r) for r in rights])
            for n in range(max(map(len, rights), default=0)):
                found[path + ("agents", n)] = share(r[n] for r in rights if n < len(r))

        if samples is None and debates is not None:
            samples = [(record, rounds[0][0], rounds[0][1], right) for record, right, rounds in debates]
        if greedy is not None:
            put_turns(("greedy",), [r for _, _, r, _ in greedy])
            outcomes["greedy"] = [[r[n] for _, _, r, _ in greedy] for n in range(len(greedy[0][2]))]
        if samples is not None:
            agents = self.config.get("debate", {}).get("agents", 3)
            put_turns(("single",), [r[:agents] for _, _, r, _ in samples])
            outcomes["single"] = [[r[n] for _, _, r, _ in samples] for n in range(min(agents, len(samples[0][2])))]
            outcomes["samples"] = [[r[n] for _, _, r, _ in samples] for n in range(len(samples[0][2]))]

            def of_first(k):
                votes = [(self.vote(iteration, split, record["question"], a[:k], 1), right) for record, a, _, right in samples]
                return [grader.same(winner, right) for (winner, _, _), right in votes]

            majority = metrics.get("majority", {})
            if self.ties != "largest" or grader.equality != "math":
                if majority:
                    put(("majority",), of_first(majority["samples"]))
                    outcomes["majority"] = of_first(majority["samples"])
                for i, smaller in enumerate(majority.get("by_samples", [])):
                    put(("majority", "by_samples", i), of_first(smaller["samples"]))
                if "budget" in majority:
                    put(("majority", "budget"), of_first(majority["budget"]["samples"]))
        if debates is not None:
            count = len(debates[0][2]) if debates else 0
            for m in range(count):
                for path in [("debate", "rounds", m)] + ([("debate",)] if m + 1 == count else []):
                    put_turns(path, [rounds[m][1] for _, _, rounds in debates])
                    put(path, [rounds[m][2] for _, _, rounds in debates])
            outcomes["vote"] = [[rounds[m][2] for _, _, rounds in debates] for m in range(count)]
            outcomes["debate"] = [
                [[rounds[m][1][n] for _, _, rounds in debates] for n in range(len(debates[0][2][m][1]))] for m in range(count)
            ]
        records = next((r for r in (greedy, samples, debates) if r), [])
        self.check_outcomes(iteration, split, metrics.get("outcomes", {}), outcomes, [r[0]["question"] for r in records])
        return found

    def check_outcomes(self, iteration, split, stored, recounted, questions, path=()):
        """Strings with a character a question, `1` for right, in the same nesting as the recount's."""
        if isinstance(stored, dict):
            for key, value in stored.items():
                if key in recounted:
                    self.check_outcomes(iteration, split, value, recounted[key], questions, path + (key,))
        elif isinstance(stored, list):
            for i, value in enumerate(stored):
                if i < len(recounted):
                    self.check_outcomes(iteration, split, value, recounted[i], questions, path + (i,))
        else:
            flags = [bool(f) for f in recounted]
            place = f"{split}: outcomes.{'.'.join(map(str, path))}"
            if len(stored) != len(flags):
                self.say(iteration, place, "", f"{len(stored)} questions", len(flags))
            for question, character, flag in zip(questions, stored, flags):
                if (character == "1") != flag:
                    self.say(iteration, place, question, f"{character!r}", "right" if flag else "wrong")

    def labels(self, iteration, metrics):
        """All accuracies of pseudo-labels."""
        debates = self.debates(iteration, "train", "train")
        if debates is None:
            return {}
        found, grader = {}, self.tools("train")[0]
        for m in range(len(debates[0][2]) if debates else 0):
            found[("vote_accuracy_by_round", m)] = share(rounds[m][2] for _, _, rounds in debates)
        source = metrics.get("source", "vote")
        if source == "vote":
            labelled = []
            for record, _, rounds in debates:
                answers, _, right, winner = rounds[-1]
                votes = sum(grader.same(a, winner) for a in answers)
                enough = 2 * votes > len(answers) if self.agreement == 0 else votes >= self.agreement
                if winner is not None and enough:
                    labelled.append(right)
        elif source == "own answers":
            given = [[r for a, r in zip(rounds[0][0], rounds[0][1]) if a is not None] for _, _, rounds in debates]
            labelled = [share(r) for r in given if r]
        else:
            # Labels that were asked for are right by definition.
            labelled = [1.0] * metrics.get("labelled", 0)
        found[("accuracy",)] = share(labelled)
        found[("standard_error",)] = error_of(labelled)
        found[("labelled",)] = len(labelled)
        found[("coverage",)] = len(labelled) / len(debates) if debates else 0.0
        return found


def accuracies(value, path=()):
    """Paths of all accuracies in a metrics record."""
    if isinstance(value, dict):
        for key, inner in value.items():
            if key == "agents" and isinstance(inner, list) and "accuracy" in value or key == "vote_accuracy_by_round":
                yield from (path + (key, i) for i in range(len(inner)))
            elif key in ("accuracy", "standard_error") and isinstance(inner, (int, float)):
                yield path + (key,)
            else:
                yield from accuracies(inner, path + (key,))
    elif isinstance(value, list):
        for i, inner in enumerate(value):
            yield from accuracies(inner, path + (i,))


def at(value, path):
    for key in path:
        value = value[key]
    return value


class Report:
    def __init__(self):
        self.lines, self.unknown, self.borrowed, self.compared = [], [], set(), 0

    def disagree(self, line):
        if line not in self.lines:
            self.lines.append(line)


# What presets say of votes (src/run/presets.rs). The run's own is spelt out in config.toml, an arm's is only named.
PRESETS = {
    "default": {"debate.min_agreement": 0, "debate.ties": "random"},
    "paper": {"debate.min_agreement": 1, "debate.ties": "random"},
    "official-code": {"debate.min_agreement": 1, "debate.ties": "largest"},
}


def resolved(config, arm):
    """The configuration of an arm: the run's, with the arm's preset, if it names one, and the arm's overrides."""
    config = json.loads(json.dumps({k: v for k, v in config.items() if k != "arm"}, default=str))

    def put(path, value):
        if isinstance(value, dict):
            for key, inner in value.items():
                put(f"{path}.{key}", inner)
            return
        section = config
        *sections, key = path.split(".")
        for name in sections:
            section = section.setdefault(name, {})
        section[key] = value

    overrides = arm.get("set", {})
    for path, value in [*PRESETS.get(overrides.get("run.preset"), {}).items(), *overrides.items()]:
        put(path, value)
    return config


def recount(run, extra, report):
    """Compares metrics.jsonl; returns what was recounted, by (arm, seed, iteration, name)."""
    import tomllib

    config = tomllib.loads((run / "config.toml").read_text(encoding="utf-8"))
    arms = {arm["name"]: arm for arm in config.get("arm", [])} or {"multiagent": {}}
    lanes, all_found = {}, {}
    for line in (run / "metrics.jsonl").read_text(encoding="utf-8").split("\n"):
        if not line.strip():
            continue
        metrics = json.loads(line)
        # The first line; folders of older versions have none.
        if "schema" in metrics:
            if metrics["schema"] != SCHEMA:
                sys.exit(f"{run / 'metrics.jsonl'}: schema: found {metrics['schema']}, expected {SCHEMA}")
            continue
        arm, seed, iteration, name = (metrics[k] for k in ("arm", "seed", "iteration", "name"))
        # Likelihoods and embeddings are the model's; no accuracy is among them.
        if name == "diversity":
            continue
        paths = list(accuracies(metrics))
        if not paths:
            continue
        if (arm, seed) not in lanes:
            lanes[arm, seed] = Lane(run, arm, seed, resolved(config, arms.get(arm, {})), extra, report)
        lane = lanes[arm, seed]
        if name == "pseudo-labels":
            found = lane.labels(iteration, metrics)
        else:
            found = lane.evaluation(iteration, name, metrics)
        all_found[arm, seed, iteration, name] = metrics, found
        extra_paths = [p for p in [("labelled",), ("coverage",)] if p in found and p[0] in metrics]
        for path in paths + extra_paths:
            where = f"{arm}/seed-{seed}, iteration {iteration}, {name}: {'.'.join(map(str, path))}"
            if path not in found:
                report.unknown.append(where)
                continue
            report.compared += 1
            if abs(at(metrics, path) - found[path]) > TOLERANCE:
                report.disagree(f"{where}: the run says {at(metrics, path):.6f}, the recount {found[path]:.6f}")
    return all_found


def csv_value(row, all_found):
    """The recount's value for a row of report.csv; None if there is none."""
    name = {"train": "pseudo-labels"}.get(row["split"], row["split"])
    key = row["arm"], int(row["seed"]), int(row["iteration"]), name
    if key not in all_found:
        return None
    metrics, found = all_found[key]
    method, round_ = row["method"], int(row.get("round") or 0)
    if name == "pseudo-labels" and method.startswith("pseudo-label"):
        return found.get(("accuracy",))
    if method in ("greedy", "single", "majority"):
        return found.get((method, "accuracy"))
    if method == "majority-at-budget":
        return found.get(("majority", "budget", "accuracy"))
    if method == "majority-by-samples":
        sizes = [s["samples"] for s in metrics["majority"]["by_samples"]]
        return found.get(("majority", "by_samples", sizes.index(int(row["samples"])), "accuracy"))
    if name == "pseudo-labels":
        return found.get(("vote_accuracy_by_round", round_ - 1))
    if round_:
        return found.get(("debate", "rounds", round_ - 1, "accuracy"))
    return found.get(("debate", "accuracy"))


def recount_csv(path, all_found, report):
    with open(path, newline="", encoding="utf-8") as file:
        for number, row in enumerate(csv.DictReader(file), 2):
            if not row.get("accuracy"):
                continue
            where = f"{path}, line {number}: {row['arm']}/seed-{row['seed']}, iteration {row['iteration']}, {row['split']}, {row['method']} {row.get('round') or ''}".rstrip()
            try:
                value = csv_value(row, all_found)
            except (ValueError, KeyError, IndexError):
                value = None
            if value is None:
                report.unknown.append(where)
                continue
            report.compared += 1
            if abs(float(row["accuracy"]) - value) > CSV_TOLERANCE:
                report.disagree(f"{where}: the table says {row['accuracy']}, the recount {value:.6f}")


def main():
    parser = argparse.ArgumentParser(prog="recount.py", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, help="a run folder")
    parser.add_argument("--csv", action="append", default=[], metavar="FILE", help="also this table, with the columns arm, seed, iteration, split, method, round, accuracy [default: RUN/report.csv if there is one]")
    parser.add_argument("--data", action="append", default=[], metavar="PATH", help="data files or folders with the right answers, where those of the configuration have moved")
    args = parser.parse_args()
    for name in ("config.toml", "metrics.jsonl"):
        if not (args.run / name).exists():
            parser.error(f"{args.run}: no {name}: not a run folder")
    report = Report()
    all_found = recount(args.run, args.data, report)
    own = [str(args.run / "report.csv")] if (args.run / "report.csv").exists() else []
    for path in args.csv or own:
        recount_csv(path, all_found, report)
    counts = defaultdict(int)
    for line in report.lines:
        print(line)
        counts["disagreements"] += 1
    for line in report.unknown:
        print(f"not recounted: {line}")
    for place in sorted(report.borrowed):
        print(f"note: {place}: right answers are the run's own; --data names the files that have them")
    print(f"{report.compared} numbers recounted, {counts['disagreements']} disagreements, {len(report.unknown)} not recounted")
    if report.compared == 0:
        print("nothing was recounted")
    return 1 if report.lines or report.unknown or report.compared == 0 else 0


if __name__ == "__main__":
    sys.exit(main())
