#!/usr/bin/env python3
"""Writes the tables of docs/results.md from docs/results/NAME/, so that no number is typed by hand.
Standard library only.

    python3 tools/results.py take RUN NAME --command "colloquy run full"
                                        copy a run's results into docs/results/NAME/
    python3 tools/results.py            rewrite docs/results.md between its markers
    python3 tools/results.py --check    fail if that would change anything

`colloquy report RUN` must have been run. For each NAME, docs/results.md holds

    <!-- results: NAME -->
    <!-- end of results: NAME -->

docs/results/NAME/ holds config.toml, metrics.jsonl (without training losses), summary.csv,
comparisons.csv, figure.svg and about.json (commit, command, device, seeds; a "note" may be added by
hand).
"""

import argparse
import csv
import json
import re
import shutil
import sys
import textwrap
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
RESULTS = "docs/results"
PAGE = "docs/results.md"
COLUMNS = 100
COPIED = ["config.toml", "summary.csv", "comparisons.csv", "figure.svg"]
METHODS = {
    "greedy": "greedy", "single": "single sample", "majority": "majority", "majority-at-budget": "majority at the debate's FLOP",
    "first-vote": "vote of round 1", "final-vote": "final vote",
}


def fail(text: str):
    sys.exit(f"error: {text}")


def read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except OSError as e:
        fail(f"{path}: {e.strerror}")


def rows(path: Path, columns: list[str]) -> list[dict[str, str]]:
    found = list(csv.DictReader(read(path).splitlines()))
    for column in columns:
        if found and column not in found[0]:
            fail(f"{path}: found no column `{column}`, expected {', '.join(columns)}")
    return found


def take(root: Path, run: Path, name: str, command: str):
    """Copies what is needed of a run."""
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", name):
        fail(f"NAME: found `{name}`, expected letters, digits, `.`, `_` or `-`")
    manifest = json.loads(read(run / "manifest.json"))
    folder = root / RESULTS / name
    folder.mkdir(parents=True, exist_ok=True)
    for file in COPIED:
        if not (run / file).exists():
            fail(f"{run / file}: missing; `colloquy report {run}` writes it")
        shutil.copyfile(run / file, folder / file)
    # Where somebody's files lay is nobody else's business: only their names stay.
    config = folder / "config.toml"
    config.write_text(re.sub(r'^(\w+ = )"/(?:[^"]*/)?([^"/]+)"$', r'\1"\2"', read(config), flags=re.M), encoding="utf-8")
    records = [(json.loads(line), line) for line in read(run / "metrics.jsonl").splitlines()]
    kept = [(record, line) for record, line in records if record.get("name") != "training"]
    (folder / "metrics.jsonl").write_text("".join(f"{line}\n" for _, line in kept), encoding="utf-8")
    about = {
        "commit": manifest["program"]["commit"], "command": command, "device": manifest["device"],
        "seeds": sorted({record["seed"] for record, _ in kept if "seed" in record}),
    }
    (folder / "about.json").write_text(json.dumps(about, indent=2) + "\n", encoding="utf-8")
    print(folder)


def percent(text: str) -> str:
    return f"{100 * float(text):.1f}"


def cell(row: dict[str, str] | None) -> str:
    if row is None:
        return "–"
    if row["low"]:
        return f"{percent(row['value'])} [{percent(row['low'])}, {percent(row['high'])}]"
    return percent(row["value"])


def points(text: str) -> str:
    value = 100 * float(text)
    return f"{'−' if value < 0 else '+'}{abs(value):.1f}"


def p_value(text: str) -> str:
    return "p < 0.001" if float(text) < 0.001 else f"p = {float(text):.3f}"


def wrapped(text: str) -> str:
    # No line begins with the % of a number.
    text = text.replace(" %", "\u00a0%")
    return textwrap.fill(text, COLUMNS, break_long_words=False, break_on_hyphens=False).replace("\u00a0", " ")


def command_block(text: str) -> list[str]:
    """A command as an indented block, wrapped before options."""
    lines = [""]
    for part in re.split(r" (?=--)", text):
        if lines[-1] and len(lines[-1]) + 1 + len(part) > COLUMNS - 10:
            lines.append("")
        lines[-1] += (" " if lines[-1] else "") + part
    return [
        ("    " if i == 0 else "        ") + line + (" \\" if i + 1 < len(lines) else "")
        for i, line in enumerate(lines)
    ]


def comparison(row: dict[str, str]) -> str:
    return wrapped(
        f"Primary comparison, named in the configuration: {METHODS[row['method']]} of `{row['arm']}` after iteration "
        f"{row['iteration']} ({percent(row['accuracy'])} %) less that of `{row['against']}` ({percent(row['against_accuracy'])} %): "
        f"**{points(row['difference'])} points**, 95 % interval {points(row['low'])} to {points(row['high'])}, {p_value(row['p'])}; "
        f"smallest detectable difference {100 * float(row['detectable']):.1f} points."
    )


def section(root: Path, name: str) -> str:
    """What stands between the markers."""
    folder = root / RESULTS / name
    about = json.loads(read(folder / "about.json"))
    needed = ["arm", "iteration", "split", "method", "samples", "measure", "value", "low", "high", "seeds", "questions", "own"]
    means = [r for r in rows(folder / "summary.csv", needed) if r["measure"] == "accuracy"]
    if not means:
        fail(f"{folder / 'summary.csv'}: found no accuracies")
    arms = list(dict.fromkeys(r["arm"] for r in means))
    splits = [s for s in ["test", "transfer-test", "dev"] if any(r["split"] == s for r in means)]
    # Dev questions were used for tuning: they stand here only where there are no others.
    splits = [s for s in splits if s != "dev"] or splits
    columns = []
    for split in splits:
        last = max(int(r["iteration"]) for r in means if r["split"] == split)
        questions = next(r["questions"] for r in means if r["split"] == split)
        columns.append((split, last, f"{split} ({questions} questions)"))

    def find(arm: str, split: str, iteration: int, method: str):
        for r in means:
            if (r["arm"], r["split"], int(r["iteration"]), r["method"]) == (arm, split, iteration, method):
                return r
        return None

    asking = {
        r["arm"] for r in map(json.loads, read(folder / "metrics.jsonl").splitlines()) if r.get("asks_for_labels")
    }
    lines = []
    for row in rows(folder / "comparisons.csv", ["kind", "split", "difference", "p"]):
        if row["kind"] == "primary":
            lines += [comparison(row), ""]
    lines.append("| arm | answered by | seeds | before training, " + " | before training, ".join(
        f"{title} | after iteration {last}" for _, last, title in columns) + " |")
    lines.append("| --- | --- | ---: |" + " ---: | ---: |" * len(columns))
    for arm in arms:
        method = next((r["method"] for r in means if r["arm"] == arm and r["own"]), None)
        if method is None:
            continue
        own = [r for r in means if r["arm"] == arm and r["method"] == method]
        how = METHODS[method] + (f" of {own[-1]['samples']}" if own[-1]["samples"] else "")
        cells = [c for split, last, _ in columns for c in (cell(find(arm, split, 0, method)), cell(find(arm, split, last, method)))]
        mark = " \\*" if arm in asking else ""
        lines.append(f"| {arm}{mark} | {how} | {own[-1]['seeds']} | " + " | ".join(cells) + " |")
    lines += [
        "",
        wrapped(
            "Accuracy in %, in brackets the 95 % interval over seeds and questions."
            + (" \\*: its training saw right answers." if asking else "")
        ),
        "",
        f"![Accuracy over iterations](results/{name}/figure.svg)",
        "",
        *command_block(about["command"]),
        "",
        wrapped(
            f"Commit {about['commit'] or 'unknown'}; {about['device']}. "
            + (f"{about['note']} " if "note" in about else "")
            + f"All files of this run: [{RESULTS}/{name}](results/{name})."
        ),
    ]
    return "\n".join(lines)


def rewritten(root: Path, text: str) -> str:
    """The page with every section made again."""
    names = re.findall(r"<!-- results: (\S+) -->", text)
    folder = root / RESULTS
    known = sorted(p.name for p in folder.iterdir() if p.is_dir()) if folder.is_dir() else []
    for name in known:
        if name not in names:
            fail(f"{PAGE}: has no marker `<!-- results: {name} -->` for {RESULTS}/{name}")
    for name in names:
        if name not in known:
            fail(f"{PAGE}: names results `{name}`, but there is no {RESULTS}/{name}")
        start, end = f"<!-- results: {name} -->\n", f"<!-- end of results: {name} -->"
        before, _, rest = text.partition(start)
        old, found, after = rest.partition(end)
        if not found or "<!-- results:" in old:
            fail(f"{PAGE}: `{start.strip()}` has no `{end}` after it")
        text = f"{before}{start}\n{section(root, name)}\n\n{end}{after}"
    return text


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="change nothing; exit with 1 if the page is not up to date")
    parser.add_argument("--root", type=Path, default=ROOT, help=argparse.SUPPRESS)
    commands = parser.add_subparsers(dest="action")
    taker = commands.add_parser("take", help="copy what is needed of a run into docs/results/NAME/")
    taker.add_argument("run", type=Path)
    taker.add_argument("name")
    taker.add_argument("--command", required=True, help="the command that made the run")
    options = parser.parse_args()
    if options.action == "take":
        return take(options.root, options.run, options.name, options.command)
    path = options.root / PAGE
    old = read(path)
    new = rewritten(options.root, old)
    if new == old:
        return None
    if options.check:
        fail(f"{PAGE} is not what {RESULTS} gives; run python3 tools/results.py")
    path.write_text(new, encoding="utf-8")
    print(f"rewrote {path}")


if __name__ == "__main__":
    main()
