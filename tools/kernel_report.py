"""Writes or checks kernels/resources.tsv: what the machine code of each CUDA kernel takes and which instructions it has, by architecture.

    tools/cuda_toolchain.sh                # nvcc and cuobjdump, once
    python3 tools/kernel_report.py         # writes the table
    python3 tools/kernel_report.py --check # compares it with the committed one

It reads the images that build.rs makes (through `cargo check`, which compiles what has changed) and needs no GPU. Both forms also check the rules of
kernels/checks.toml, and exit with status 1 if one is broken.
"""

import argparse
import difflib
import fnmatch
import json
import os
import re
import subprocess
import sys
from collections import Counter
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PROGRAMS = ROOT / "tools/.cuda/nvidia/cu13/bin"
TABLE = ROOT / "kernels/resources.tsv"
CHECKS = ROOT / "kernels/checks.toml"

CLASSES = ["tensor_core", "memory_bound", "other"]
EXCEPTIONS = ["scalar_in_loop", "may_spill"]

RESOURCES = ["registers", "stack", "spill_stores", "spill_loads", "static_shared"]
# Counted over the whole kernel, loops once.
INSTRUCTIONS = {
    "tensor_core": r"(HMMA|HGMMA)\b",
    "LDSM": r"LDSM\b",
    "LDGSTS.128": r"LDGSTS\b.*\.128\b",
    "LDG.128": r"LDG\b.*\.128\b",
    "STG.128": r"STG\b.*\.128\b",
    "FFMA": r"FFMA\b",
}


def main():
    parser = argparse.ArgumentParser(description="Resources and instructions of the CUDA kernels, against kernels/resources.tsv and kernels/checks.toml.")
    parser.add_argument("--check", action="store_true", help="compare with the committed table instead of writing it")
    parser.add_argument("--loops", metavar="KERNEL", help="print the loops with tensor-core instructions of one kernel, and nothing else")
    parser.add_argument("--images", type=Path, metavar="DIR", help="a folder of NAME.fatbin and NAME.log, instead of what build.rs makes")
    options = parser.parse_args()

    images = options.images or built_images()
    kernels = [kernel for image in sorted(images.glob("*.fatbin")) for kernel in read_image(image)]
    kernels.sort(key=lambda kernel: (kernel["file"], kernel["name"], kernel["architecture"]))
    if options.loops:
        return print_loops(kernels, options.loops)

    broken = warnings(images) + broken_rules(kernels)
    table = table_of(kernels)
    if options.check:
        committed = TABLE.read_text() if TABLE.exists() else ""
        difference = list(difflib.unified_diff(committed.splitlines(), table.splitlines(), "committed", "built", lineterm="", n=0))
        if difference:
            broken.append("\n".join(["kernels/resources.tsv is not what the kernels compile to; if it should be, run tools/kernel_report.py", *difference]))
    elif not TABLE.exists() or TABLE.read_text() != table:
        # Only then: cargo watches the folder, and would build the crate again.
        TABLE.write_text(table)
    for message in broken:
        print(message, file=sys.stderr)
    files = len({kernel["file"] for kernel in kernels})
    names = len({kernel["name"] for kernel in kernels})
    size = sum(image.stat().st_size for image in images.glob("*.fatbin"))
    seconds = sum(float(re.match(r"compiled in ([\d.]+) s", log.read_text())[1]) for log in images.glob("*.log"))
    print(f"{names} kernels in {files} files, {size / 2**20:.1f} MiB of images, compiled in {seconds:.0f} s of nvcc: {len(broken) or 'nothing'} to complain of")
    return 1 if broken else 0


def built_images():
    """The folder where build.rs leaves the images of the dev profile, after bringing it up to date."""
    if not (PROGRAMS / "nvcc").exists():
        sys.exit("tools/.cuda/ has no nvcc: run tools/cuda_toolchain.sh (the table is that of the pinned compiler)")
    environment = {name: value for name, value in os.environ.items() if name not in ["NVCC", "COLLOQUY_CUDA_ARCHS"]}
    command = ["cargo", "check", "--quiet", "--lib", "--locked", "--message-format=json-render-diagnostics"]
    run = subprocess.run(command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, text=True)
    for line in run.stdout.splitlines():
        message = json.loads(line)
        if message["reason"] == "build-script-executed" and re.search(r"[/#]colloquy[@#]", message["package_id"]):
            return Path(message["out_dir"]) / "kernels"
    sys.exit("the kernels were not built (cargo's message stands above)")


def disassemble(image, *options):
    program = PROGRAMS / "cuobjdump"
    if not program.exists():
        sys.exit("tools/.cuda/ has no cuobjdump: run tools/cuda_toolchain.sh")
    # A fatbin of PTX alone has nothing to show, and cuobjdump calls that an error.
    run = subprocess.run([program, *options, image], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    if run.returncode != 0:
        sys.exit(f"{program.name} {' '.join(options)} {image}: {run.stderr.strip() or run.stdout.strip()}")
    return run.stdout


def read_image(image):
    """One entry for each kernel and architecture of a fatbin."""
    resources, architecture, name = {}, None, None
    for line in disassemble(image, "--dump-resource-usage").splitlines():
        if found := re.match(r"arch = (\w+)", line):
            architecture = found[1]
        elif found := re.match(r"\s*Function (\S+):", line):
            name = found[1]
        elif found := re.match(r"\s*REG:(\d+) STACK:(\d+) SHARED:(\d+) LOCAL:(\d+)", line):
            registers, _, shared, _ = map(int, found.groups())
            resources[name, architecture] = {"registers": registers, "static_shared": shared}

    spills = {}
    log = image.with_suffix(".log").read_text()
    for line in log.splitlines():
        if found := re.search(r"Compiling entry function '(\S+)' for '(\w+)'", line):
            key = found.groups()
            spills[key] = Counter()
        # Also of the functions that are called from the entry and were not inlined.
        elif found := re.search(r"(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes spill loads", line):
            spills[key].update(stack=int(found[1]), spill_stores=int(found[2]), spill_loads=int(found[3]))

    code = {}
    for line in disassemble(image, "--dump-sass").splitlines():
        if found := re.match(r"\s*code for (\w+)", line):
            architecture = found[1]
        elif found := re.match(r"\s*Function : (\S+)", line):
            code[found[1], architecture] = instructions = []
        elif found := re.match(r"\s*/\*([0-9a-f]{4,})\*/\s+(.*?)\s*;", line):
            instructions.append((int(found[1], 16), found[2]))

    if not resources and not spills:
        sys.exit(f"kernels/{image.stem}.cu defines no kernel")
    for name, architecture in resources.keys() ^ {key for key in spills if code.get(key)}:
        sys.exit(f"{image}: the code or the compiler's log of {name} for {architecture} is missing; has the output of cuobjdump or ptxas another format?")
    return [
        {"file": image.stem, "name": name, "architecture": architecture, "code": code[name, architecture],
         "stack": 0, "spill_stores": 0, "spill_loads": 0, **resources[name, architecture], **spills[name, architecture],
         **{title: sum(matches(pattern, text) for _, text in code[name, architecture]) for title, pattern in INSTRUCTIONS.items()}}
        for name, architecture in resources
    ]


def matches(pattern, instruction):
    """Whether an instruction, which may begin with a predicate, is of a kind."""
    return re.match(r"(@!?U?P\w+\s+)?" + pattern, instruction) is not None


def table_of(kernels):
    titles = RESOURCES + list(INSTRUCTIONS)
    pins = dict(re.findall(r"^([\w-]+)==([\d.]+)", (ROOT / "tools/cuda_requirements.txt").read_text(), re.MULTILINE))
    lines = [
        f"# By tools/kernel_report.py from nvcc {pins['nvidia-cuda-nvcc']}. Bytes; of sm_90a's static shared memory 1024 are the system's. Instructions stand in the whole kernel.",
        "\t".join(["file", "kernel", "architecture", *titles]),
    ]
    for kernel in kernels:
        lines.append("\t".join(str(kernel[title]) for title in ["file", "name", "architecture", *titles]))
    return "\n".join(lines) + "\n"


def warnings(images):
    return [
        f"kernels/{log.stem}.cu: {line.strip()}"
        for log in sorted(images.glob("*.log")) for line in log.read_text().splitlines()
        if re.search(r"\bwarning\b|\badvisory\b|Potential Performance Loss", line, re.IGNORECASE)
    ]


def broken_rules(kernels):
    """Messages about kernels that are not as kernels/checks.toml says."""
    lists = read_checks()
    names = sorted({kernel["name"] for kernel in kernels})
    members = {title: {name for name in names if any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns)} for title, patterns in lists.items()}
    broken = [
        f"kernels/checks.toml: {title}: no kernel is called {pattern}"
        for title, patterns in lists.items() for pattern in patterns if not fnmatch.filter(names, pattern)
    ]
    for name in names:
        classes = [title for title in CLASSES if name in members[title]]
        if len(classes) != 1:
            broken.append(f"kernels/checks.toml: {name} is in {' and '.join(classes) or 'no list'}; it must be in one of {', '.join(CLASSES)}")
        files = sorted({kernel["file"] for kernel in kernels if kernel["name"] == name})
        if len(files) > 1:
            broken.append(f"{name} is a kernel of {' and '.join(files)}; the emulator knows kernels by their names alone")
    for kernel in kernels:
        def breaks(message):
            broken.append(f"kernels/{kernel['file']}.cu: {kernel['name']} for {kernel['architecture']}: {message}")

        if kernel["name"] not in members["may_spill"]:
            if kernel["spill_stores"] or kernel["spill_loads"]:
                breaks(f"spills registers ({kernel['spill_stores']} bytes stored, {kernel['spill_loads']} loaded)")
            if kernel["stack"]:
                breaks(f"keeps {kernel['stack']} bytes on the stack")
        if kernel["name"] in members["tensor_core"]:
            if not kernel["tensor_core"]:
                breaks("has no tensor-core instructions")
            elif kernel["name"] not in members["scalar_in_loop"]:
                check_loops(kernel, breaks)
        elif kernel["tensor_core"]:
            breaks(f"has {kernel['tensor_core']} tensor-core instructions, but is not in the list tensor_core of kernels/checks.toml")
        if kernel["name"] in members["memory_bound"] and not (kernel["LDG.128"] or kernel["LDGSTS.128"]):
            breaks("loads nothing by 16 bytes (LDG.128, LDGSTS.128)")
    return broken


def check_loops(kernel, breaks):
    loops = tensor_core_loops(kernel)
    if not loops:
        breaks("has tensor-core instructions, but in no loop")
    for loop in loops:
        scalar = [address for address, text in loop if matches(INSTRUCTIONS["FFMA"], text)]
        if scalar:
            breaks(f"has {len(scalar)} FFMA in the tensor-core loop at {loop[0][0]:#06x} (the first at {scalar[0]:#06x})")


def read_checks():
    try:
        import tomllib
    except ImportError:
        sys.exit(f"Python 3.11 or newer is needed, this is {sys.version.split()[0]}")
    lists = tomllib.loads(CHECKS.read_text())
    for title, patterns in lists.items():
        if title not in CLASSES + EXCEPTIONS or not isinstance(patterns, list):
            sys.exit(f"kernels/checks.toml: {title}: expected lists called {', '.join(CLASSES + EXCEPTIONS)}")
    return {title: lists.get(title, []) for title in CLASSES + EXCEPTIONS}


def tensor_core_loops(kernel):
    """The innermost loops that have tensor-core instructions, each as its instructions in order of address.

    Loops are the natural loops of the control-flow graph (Aho, Lam, Sethi, Ullman: Compilers, section 9.6): a backward address alone is none, as the
    compiler also puts rare paths behind the rest of the code, from where they jump back.
    """
    blocks, successors = control_flow(kernel["code"])
    dominators = dominators_of(successors)
    for block, by in zip(blocks, dominators):
        if not by and any(matches(INSTRUCTIONS["tensor_core"], text) for _, text in block):
            sys.exit(f"{kernel['name']} for {kernel['architecture']}: the tensor-core instructions at {block[0][0]:#06x} are not reached by any branch that this script knows")
    loops = {}
    for block, following in enumerate(successors):
        for header in following:
            if dominators[block] >> header & 1:
                loops.setdefault(header, {header}).update(blocks_to(successors, block, header))
    with_tensor = [
        body for body in loops.values() if any(matches(INSTRUCTIONS["tensor_core"], text) for block in body for _, text in blocks[block])
    ]
    innermost = [body for body in with_tensor if not any(other < body for other in with_tensor)]
    return sorted(sorted(instruction for block in body for instruction in blocks[block]) for body in innermost)


def control_flow(code):
    """Basic blocks (lists of instructions) and for each the numbers of those that may follow it."""
    branch = {}  # address of a branch: (target, whether the next instruction may follow too)
    for address, text in code:
        found = re.match(r"(@!?\w+\s+)?(BRA|CALL|JMP)(?:\.\S+)?\s+(?:(.*),\s*)?(0x[0-9a-f]+)$", text)
        if found:
            # ptxas also uses calls, to which no return belongs, to leave loops.
            branch[address] = int(found[4], 16), bool(found[1] or found[3]) or found[2] == "CALL"
        elif re.match(r"(@!?\w+\s+)?(EXIT|RET|BRX|JMX|KILL)\b", text):
            branch[address] = None, text.startswith("@")
    starts = {code[0][0]} | {target for target, _ in branch.values() if target is not None}
    blocks = []
    for index, (address, text) in enumerate(code):
        if address in starts or index and code[index - 1][0] in branch:
            blocks.append([])
        blocks[-1].append((address, text))
    number = {block[0][0]: index for index, block in enumerate(blocks)}
    # Where an indirect branch goes is in a table that the listing does not show: to one of the blocks that nothing else leads to.
    led_to = {number[target] for target, _ in branch.values() if target in number}
    led_to |= {index + 1 for index, block in enumerate(blocks) if branch.get(block[-1][0], (None, True))[1]}
    cases = set(range(1, len(blocks))) - led_to
    successors = []
    for index, block in enumerate(blocks):
        target, falls_through = branch.get(block[-1][0], (None, True))
        following = {number[target]} if target in number else set()
        if re.match(r"(@!?\w+\s+)?(BRX|JMX)\b", block[-1][1]):
            following |= cases
        if falls_through and index + 1 < len(blocks):
            following.add(index + 1)
        successors.append(following)
    return blocks, successors


def dominators_of(successors):
    """For each block the set of blocks (as bits) that every path from the entry to it passes; of blocks that no path reaches, nothing."""
    predecessors = [[] for _ in successors]
    for block, following in enumerate(successors):
        for after in following:
            predecessors[after].append(block)
    reached, pending = {0}, [0]
    while pending:
        for after in successors[pending.pop()] - reached:
            reached.add(after)
            pending.append(after)
    everything = (1 << len(successors)) - 1
    dominators = [everything if block in reached else 0 for block in range(len(successors))]
    dominators[0] = 1
    changed = True
    while changed:
        changed = False
        for block in sorted(reached - {0}):
            common = everything
            for before in predecessors[block]:
                if before in reached:
                    common &= dominators[before]
            common |= 1 << block
            changed |= common != dominators[block]
            dominators[block] = common
    return dominators


def blocks_to(successors, last, header):
    """The blocks from which `last` can be reached without passing `header`, with `last` itself."""
    predecessors = [[] for _ in successors]
    for block, following in enumerate(successors):
        for after in following:
            predecessors[after].append(block)
    found, pending = {header, last}, [last] if last != header else []
    while pending:
        for before in predecessors[pending.pop()]:
            if before not in found:
                found.add(before)
                pending.append(before)
    return found


def print_loops(kernels, name):
    chosen = [kernel for kernel in kernels if kernel["name"] == name]
    if not chosen:
        sys.exit(f"no kernel is called {name}")
    for kernel in chosen:
        for loop in tensor_core_loops(kernel):
            print(f"{name} for {kernel['architecture']}, {len(loop)} instructions")
            for address, text in loop:
                print(f"    {address:06x}  {text}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
