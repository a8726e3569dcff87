#!/usr/bin/env python3
"""Measures PyTorch at the shapes of our models, for the lines beside ours.

    python3 tools/gpu-reference.py [--json FILE] [--shapes 8b,1b,135m] [--seconds 22]
    python3 tools/gpu-reference.py --device cpu --tiny        (a try without a GPU)

In bf16: a copy of 1 GiB; the largest matmul rate (8192 x 8192 x 8192); F.linear of qkv, o, gate_up
and down at 24, 256 and 8192 rows, and dx at 8192; causal attention over 8 sequences of 1024 tokens,
forward and backward; attention of one query to 1024 keys in 256 sequences.

Inputs rotate, so that L2 does not hold the weights. A time is the median over replays of a CUDA
graph of all rotations, divided by their number. Backward is forward and backward less forward. GB/s
counts each input read once and each output written once (of a copy: read and written).

The JSON file is written anew after each group. What there was no time for (--seconds from the
start) is named under `left_out`. Exit code: 0 done; 1 wrong values; 2 wrong usage; 3 refused, as
there is no PyTorch or no GPU.
"""

import argparse
import contextlib
import json
import os
import statistics
import sys
import time

START = time.perf_counter()

# Hidden width, width of the MLP, query heads, key and value heads (src/model/synthetic.rs).
SHAPES = {"8b": (4096, 14336, 32, 8), "1b": (2048, 8192, 32, 8), "135m": (576, 1536, 9, 3)}
TINY = {name: (64, 96, 4, 2) for name in SHAPES}
ROTATED_BYTES = 160e6  # more than the L2 of any GPU so far


def refuse(why):
    print(f"refused: {why}", file=sys.stderr)
    sys.exit(3)


def arguments():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--json", metavar="FILE", help="where the results go")
    parser.add_argument("--shapes", default=",".join(SHAPES), help="default %(default)s")
    parser.add_argument("--device", choices=["cuda", "cpu"], default="cuda")
    parser.add_argument("--tiny", action="store_true", help="small sizes, to try the script")
    parser.add_argument("--seconds", type=float, default=22, help="default %(default)s")
    options = parser.parse_args()
    options.shapes = options.shapes.split(",")
    for name in options.shapes:
        if name not in SHAPES:
            parser.error(f"--shapes {name}: expected some of {', '.join(SHAPES)}")
    if options.device == "cpu" and not options.tiny:
        parser.error("--device cpu takes hours without --tiny")
    return options


OPTIONS = arguments()
try:
    import torch
    import torch.nn.functional as F
    from torch.nn.attention import SDPBackend, sdpa_kernel
except Exception as missing:  # a library that PyTorch needs may be missing too
    refuse(f"PyTorch cannot be imported ({str(missing).splitlines()[0]})")
if OPTIONS.device == "cuda" and not torch.cuda.is_available():
    refuse("PyTorch finds no GPU")
DEVICE = torch.device(OPTIONS.device)
CUDA = DEVICE.type == "cuda"
ROWS = (2, 3, 8) if OPTIONS.tiny else (24, 256, 8192)
SEQUENCES, TOKENS, BATCH, KEYS = (2, 16, 4, 32) if OPTIONS.tiny else (8, 1024, 256, 1024)


def noise(*size):
    return torch.randn(*size, device=DEVICE, dtype=torch.bfloat16)


def rotations(bytes_of_one):
    return 2 if OPTIONS.tiny else max(2, min(160, -(-int(ROTATED_BYTES) // bytes_of_one)))


def timed(work, count):
    """Median milliseconds of work(0) ... work(count - 1), a call, and how it was timed."""
    def everything():
        for i in range(count):
            work(i)

    if not CUDA:
        times = []
        for _ in range(3):
            start = time.perf_counter()
            everything()
            times.append((time.perf_counter() - start) * 1e3 / count)
        return statistics.median(times), "clock"
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        everything()
    torch.cuda.synchronize()
    how = "graph"
    try:
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            everything()
        replay = graph.replay
    except RuntimeError as error:
        print(f"note: no graph, timed launch by launch: {str(error).splitlines()[0]}", flush=True)
        torch.cuda.synchronize()
        how, replay = "events", everything
    replay()
    times, begun = [], time.perf_counter()
    while len(times) < 5 or (len(times) < 40 and time.perf_counter() - begun < 0.04):
        start, stop = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        replay()
        stop.record()
        stop.synchronize()
        times.append(start.elapsed_time(stop) / count)
    return statistics.median(times), how


def line(what, ms, how, flop=None, moved=None):
    """One result, printed and as a record."""
    record = {**what, "ms": round(ms, 6), "timed_by": how}
    if flop:
        record["tflops"] = round(flop / ms * 1e-9, 3)
    if moved:
        record["gb_s"] = round(moved / ms * 1e-6, 1)
    shown = "  ".join(f"{k} {v}" for k, v in record.items())
    print(shown, flush=True)
    return record


def linear(name, product, inside, outside, rows, backward):
    """y = x Wᵀ, or dx = dy W."""
    weight_bytes, bytes_in = 2 * inside * outside, 2 * rows * (outside if backward else inside)
    count = rotations(weight_bytes + bytes_in)
    w = noise(count, outside, inside) * inside**-0.5
    x = noise(count, rows, outside if backward else inside)

    def work(i):
        return torch.matmul(x[i], w[i]) if backward else F.linear(x[i], w[i])

    got, few = work(1)[0, :32].double(), w[1, :, :32].T if backward else w[1, :32]
    expected = few.double() @ x[1, 0].double()
    if not (got - expected).norm() < 2e-2 * expected.norm():
        sys.exit(f"error: {name} {product} of {rows} rows: PyTorch's values are wrong")
    ms, how = timed(work, count)
    what = {"shape": name, "product": product, "pass": "dx" if backward else "forward"}
    what |= {"rows": rows, "in": inside, "out": outside}
    moved = weight_bytes + 2 * rows * (inside + outside)
    return line(what, ms, how, 2 * rows * inside * outside, moved)


def products(name, sizes, rows):
    hidden, middle, heads, kv = sizes
    head = hidden // heads
    for product, inside, outside in (
        ("qkv", hidden, (heads + 2 * kv) * head),
        ("o", heads * head, hidden),
        ("gate_up", hidden, 2 * middle),
        ("down", middle, hidden),
    ):
        yield linear(name, product, inside, outside, rows, False)
        if rows == ROWS[-1]:
            yield linear(name, product, inside, outside, rows, True)


def attend(q, k, v, causal):
    return F.scaled_dot_product_attention(q, k, v, is_causal=causal, enable_gqa=True)


def chosen(q, k, v, causal):
    """The backend that PyTorch takes by itself."""
    try:
        number = torch._fused_sdp_choice(q, k, v, is_causal=causal, enable_gqa=True)
        return next(b.name for b in SDPBackend.__members__.values() if int(b.value) == number)
    except Exception as error:  # private: may change its arguments
        return f"unknown ({type(error).__name__})"


def backends(q, k, v, causal):
    """(name, context) of PyTorch's own choice, and of those to compare with it."""
    own = chosen(q, k, v, causal)
    yield own + " (PyTorch's choice)", contextlib.nullcontext
    for backend in (SDPBackend.FLASH_ATTENTION, SDPBackend.CUDNN_ATTENTION) if CUDA else ():
        if backend.name != own:
            yield backend.name, lambda only=backend: sdpa_kernel([only])


def attention(name, sizes):
    """Training: causal, forward and backward."""
    hidden, _, heads, kv = sizes
    head = hidden // heads
    bytes_of_one = 2 * SEQUENCES * TOKENS * head * (heads + 2 * kv)
    count = rotations(bytes_of_one)
    q = [noise(SEQUENCES, heads, TOKENS, head).requires_grad_() for _ in range(count)]
    k = [noise(SEQUENCES, kv, TOKENS, head).requires_grad_() for _ in range(count)]
    v = [noise(SEQUENCES, kv, TOKENS, head).requires_grad_() for _ in range(count)]
    dy = noise(SEQUENCES, heads, TOKENS, head)
    flop = 2 * SEQUENCES * heads * TOKENS * (TOKENS + 1) * head  # two products, half of them

    def forward(i):
        with torch.no_grad():
            attend(q[i], k[i], v[i], True)

    def both(i):
        torch.autograd.grad(attend(q[i], k[i], v[i], True), (q[i], k[i], v[i]), dy)

    for backend, only in backends(q[0], k[0], v[0], True):
        what = {"shape": name, "backend": backend, "tokens": f"{SEQUENCES} x {TOKENS}"}
        try:
            with only():
                ms, how = timed(forward, count)
                yield line({**what, "pass": "forward"}, ms, how, flop)
                ms_both, how = timed(both, count)
            yield line({**what, "pass": "backward"}, ms_both - ms, how, 2.5 * flop)
        except RuntimeError as error:
            yield {**what, "error": str(error).splitlines()[0]}


def decode(name, sizes):
    """One query a sequence."""
    hidden, _, heads, kv = sizes
    head = hidden // heads
    bytes_of_one = 2 * 2 * BATCH * kv * KEYS * head
    count = rotations(bytes_of_one)
    q = noise(count, BATCH, heads, 1, head)
    k, v = noise(count, BATCH, kv, KEYS, head), noise(count, BATCH, kv, KEYS, head)
    for backend, only in backends(q[0], k[0], v[0], False):
        what = {"shape": name, "backend": backend, "keys": KEYS, "batch": BATCH, "pass": "decode"}
        try:
            with torch.no_grad(), only():
                ms, how = timed(lambda i: attend(q[i], k[i], v[i], False), count)
            yield line(what, ms, how, moved=bytes_of_one + 4 * BATCH * heads * head)
        except RuntimeError as error:
            yield {**what, "error": str(error).splitlines()[0]}


def peaks():
    size, side = (1 << 20, 64) if OPTIONS.tiny else (1 << 30, 8192)
    x, y = noise(side, side), noise(side, side)
    ms, how = timed(lambda i: torch.matmul(x, y), 8)
    yield line({"peak": "matmul", "side": side}, ms, how, 2 * side**3)
    a = noise(size // 2).view(torch.uint8)
    b = torch.zeros_like(a)
    ms, how = timed(lambda i: b.copy_(a), 4)
    if not torch.equal(a, b):
        sys.exit("error: PyTorch's copy is wrong")
    yield line({"peak": "copy", "bytes": size}, ms, how, moved=2 * size)


def groups():
    sizes = TINY if OPTIONS.tiny else SHAPES
    yield "peaks", "peaks", peaks
    for rows in reversed(ROWS):
        for name in OPTIONS.shapes:
            yield (f"products {name} {rows} rows", "products",
                   lambda n=name, r=rows: products(n, sizes[n], r))
    for name in OPTIONS.shapes:
        yield f"attention {name}", "attention", lambda n=name: attention(n, sizes[n])
        yield f"decode {name}", "decode", lambda n=name: decode(n, sizes[n])


def write(results):
    results["seconds"] = round(time.perf_counter() - START, 1)
    if OPTIONS.json:
        with open(OPTIONS.json + ".part", "w") as file:
            json.dump(results, file, indent=1)
            file.write("\n")
        os.replace(OPTIONS.json + ".part", OPTIONS.json)


def main():
    device = torch.cuda.get_device_name() if CUDA else "cpu"
    results = {"torch": torch.__version__, "cuda": torch.version.cuda, "device": device}
    results |= {"tiny": OPTIONS.tiny, "peaks": [], "products": [], "attention": [], "decode": []}
    results["left_out"] = []
    for title, key, group in groups():
        if time.perf_counter() - START > OPTIONS.seconds:
            results["left_out"].append(title)
            continue
        try:
            for record in group():
                if "error" in record:
                    print(f"note: {title}: {record['backend']}: {record['error']}", flush=True)
                results[key].append(record)
        except torch.cuda.OutOfMemoryError as error:
            results["left_out"].append(f"{title}: {str(error).splitlines()[0]}")
        if CUDA:
            torch.cuda.empty_cache()
        write(results)
    write(results)
    for title in results["left_out"]:
        print(f"left out: {title}")
    print(f"{device}, torch {torch.__version__}: {results['seconds']} s")


if __name__ == "__main__":
    main()
