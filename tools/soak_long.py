#!/usr/bin/env python3
"""A long run of a shrunk example, watched from outside: does anything grow that should not? Called by `tools/soak.sh long`. Linux, standard library only.

    python3 tools/soak_long.py COLLOQUY [--iterations N] [--keep N]    N iterations [default: 300]; checkpoints that are kept [default: 2; 0: all]

After every iteration resident memory, open files and the size of the folder are read from the operating system. A table in Markdown goes to stdout. Status 1 if
resident memory after the last iteration is more than 2 % above that after the tenth, if the number of open files differs, or if the folder grows
by anything else than the files an iteration writes.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

# Limits of a batch that every iteration reaches, so that buffers soon are as large as they get.
SETTINGS = [
    "run.micro_batch_rows=256", "run.step_rows=64", "task.train_questions=3", "task.dev_questions=2", "debate.agents=2",
    "debate.min_agreement=1", "sampling.max_tokens=90", "sampling.summary_max_tokens=60", "eval.diversity=0", "eval.before=false",
]
# Read after the tenth iteration: by then every buffer has been needed once.
SETTLED = 10


def field(pid: int, name: str) -> int:
    """A number of /proc/PID/status, in KiB; 0 once the process is gone."""
    try:
        for line in Path(f"/proc/{pid}/status").read_text().splitlines():
            if line.startswith(f"{name}:"):
                return int(line.split()[1])
    except OSError:
        pass
    return 0


def open_files(pid: int) -> int:
    """How many files a process has open; 0 once it is gone."""
    try:
        return len(os.listdir(f"/proc/{pid}/fd"))
    except OSError:
        return 0


def size(folder: Path) -> int:
    total = 0
    for path, _, names in os.walk(folder):
        for name in names:
            try:
                total += os.lstat(os.path.join(path, name)).st_size
            except OSError:
                pass  # written under another name meanwhile
    return total


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("colloquy", type=Path)
    parser.add_argument("--iterations", type=int, default=300)
    parser.add_argument("--keep", type=int, default=2)
    args = parser.parse_args()
    if args.iterations <= SETTLED:
        parser.error(f"--iterations {args.iterations}: expected more than {SETTLED}")
    with tempfile.TemporaryDirectory() as work:
        folder = Path(work) / "run"
        command = [str(args.colloquy), "run", "--output", str(folder), "--arm", "multiagent", "--memory", "200MiB"]
        for setting in SETTINGS + [f"run.iterations={args.iterations}", f"run.keep_checkpoints={args.keep}"]:
            command += ["--set", setting]
        with open(Path(work) / "log", "w") as log:
            child = subprocess.Popen(command, stdout=log, stderr=log)
        began, rows = time.monotonic(), []
        while len(rows) < args.iterations:
            # The last file of an iteration is the first sign that it is complete.
            done = folder / "adapters/multiagent/seed-0" / f"iteration-{len(rows) + 1}" / "critic-1" / "adapter_config.json"
            if done.exists():
                parts = [size(folder / name) for name in ("transcripts", "data", "adapters", "journal")]
                rows.append((field(child.pid, "VmRSS"), open_files(child.pid), size(folder), *parts))
            elif child.poll() is not None:
                break
            else:
                time.sleep(0.002)
        status = child.wait()
        seconds = time.monotonic() - began
        if status != 0 or len(rows) < args.iterations:
            sys.stdout.write((Path(work) / "log").read_text()[-3000:])
            print(f"error: the run ended with status {status} after {len(rows)} iterations", file=sys.stderr)
            return 1
    mib = 1024.0 * 1024.0
    print(f"{args.iterations} iterations in {seconds:.0f} s, {args.keep or 'all'} checkpoints kept")
    print(f"resident memory grew by {(rows[-1][0] - rows[SETTLED - 1][0]) / (args.iterations - SETTLED):.1f} KiB an iteration after the tenth\n")
    print("| iteration | resident, MiB | open files | folder, MiB | transcripts | data | adapters | journal |")
    print("| ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |")
    shown = sorted({1, SETTLED, 20, 30, *range(50, args.iterations, 50), args.iterations})
    for i in shown:
        rss, files, total, *parts = rows[i - 1]
        cells = [f"{rss / 1024:.1f}", str(files), f"{total / mib:.1f}"] + [f"{p / mib:.1f}" for p in parts]
        print(f"| {i} | " + " | ".join(cells) + " |")
    problems = []
    first, last = rows[SETTLED - 1], rows[-1]
    if last[0] > 1.02 * first[0]:
        problems.append(f"resident memory grew from {first[0]} to {last[0]} KiB")
    # A file that is being written is open for a moment, which a look can meet.
    files = [min(row[1] for row in ten) for ten in (rows[:SETTLED], rows[-SETTLED:])]
    if files[0] != files[1]:
        problems.append(f"open files went from {files[0]} to {files[1]}")
    each = (last[5] - first[5]) / (args.iterations - SETTLED)
    if abs(each - first[5] / SETTLED) > 0.01 * each:
        problems.append(f"adapters take {each:.0f} bytes an iteration, the first {SETTLED} took {first[5] / SETTLED:.0f}")
    for problem in problems:
        print(f"error: {problem}", file=sys.stderr)
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
