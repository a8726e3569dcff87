#!/usr/bin/env python3
"""Counts the lines of this repository by part, tests apart. Standard library only.

    python3 tools/lines.py            print the table
    python3 tools/lines.py --write    put it into docs/architecture.md between its markers

Every line counts, comments and blank ones too. A test is what stands behind `#[cfg(test)] mod` in a
file, a file called tests.rs or *_tests.rs, and everything in tests/.
"""

import re
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs/architecture.md"
START, END = "<!-- lines -->\n", "<!-- end of lines -->"
KINDS = (".rs", ".cu", ".cuh", ".cpp", ".h", ".py", ".sh", ".js", ".css")
OTHERS = ["kernels", "assets/report", "benches", "examples", "fuzz", "tools"]


def files(folder: Path):
    found = folder.rglob("*") if folder.is_dir() else [folder]
    hidden = lambda p: any(part.startswith(".") or part == "target" for part in p.relative_to(ROOT).parts)
    return sorted(p for p in found if p.suffix in KINDS and not hidden(p))


def count(path: Path) -> tuple[int, int]:
    """Lines of the program and of its tests."""
    text = path.read_text(encoding="utf-8")
    lines = text.count("\n")
    if path.stem == "tests" or path.stem.endswith("_tests") or "tests" in path.relative_to(ROOT).parts:
        return 0, lines
    at = re.search(r"^#\[cfg\(test\)\]\nmod \w+ \{", text, flags=re.M)
    own = text[: at.start()].count("\n") if at else lines
    return own, lines - own


def part(name: str) -> tuple[str, int, int]:
    counts = [count(p) for p in files(ROOT / name)]
    return name, sum(own for own, _ in counts), sum(tests for _, tests in counts)


def table() -> str:
    house = [part(f"src/{p.name}") for p in sorted((ROOT / "src").iterdir()) if p.is_dir() or p.suffix == ".rs"]
    total = ("**src**", sum(own for _, own, _ in house), sum(tests for _, _, tests in house))
    rows = [*house, total, *(part(name) for name in OTHERS), part("tests")]
    body = [f"| {name} | {own:,} | {tests:,} |" for name, own, tests in rows]
    return "\n".join(["| part | lines | lines of tests |", "|---|---:|---:|", *body]) + "\n"


def main():
    if sys.argv[1:] not in ([], ["--write"]):
        sys.exit(f"error: found {' '.join(sys.argv[1:])}, expected nothing or --write")
    if not sys.argv[1:]:
        return print(table(), end="")
    text = PAGE.read_text(encoding="utf-8")
    if START not in text or END not in text:
        sys.exit(f"error: {PAGE}: found no `{START.strip()}` with a `{END}` after it")
    before, rest = text.split(START, 1)
    PAGE.write_text(f"{before}{START}\n{table()}\n{END}{rest.split(END, 1)[1]}", encoding="utf-8")


if __name__ == "__main__":
    main()
