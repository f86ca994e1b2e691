"""Where a step's time goes by class of work, from a trace that `rankwise bench --trace FILE` wrote.

On a GPU the time is the compute stream's: kernels and copies on it, and the gaps between them; what runs on other streams
is listed beside it, as it need not cost time. A kernel's class comes from its name and from the operators in which the
host started it; what a CUDA graph starts has none and is one class. On a CPU it is the time that each operator spends
outside of those it calls. Of several steps the first is left out: the profiler is still starting.
"""

import argparse
import collections
import gzip
import json
import re
from dataclasses import dataclass
from pathlib import Path

from ideal import Rates, ideal_seconds

STEP = "rankwise::step"
GRAPHS, LARGE, SMALL = "CUDA graphs", "large GEMMs", "LoRA"
FORWARD, BACKWARD = "attention forward", "attention backward"
COPIES, REST, BESIDE, GAPS = "copies and memsets", "additions, other elementwise", "NCCL, other streams", "gaps"
# First that is found in a kernel's name or in the operators around it.
OWN = {
    "row quantising": r"quantise_rows",
    "transposes of weights": r"GpuByteTranspose",
    "expansion of NF4": r"GpuNf4Expansion",
    "norms": r"rms_norm",
    "rotary": r"\brope\b",
    "SwiGLU": r"swiglu",
    "cross entropy": r"cross_entropy|exponentiate",
    "optimizer": r"adamw|sum_of_squares|sum_squares|compute_copies",
}
CLASSES = [GRAPHS, LARGE, SMALL, FORWARD, BACKWARD, *OWN, COPIES, REST, GAPS, BESIDE]
LOW_RANK = re.compile(r"rankwise::low_rank_(add|gradient)\b")
ATTENTION = re.compile(r"attention|sdpa|fmha|flash_(fwd|bwd)")
COPY_OPERATORS = {
    f"aten::{name}"
    for name in "copy_ cat index_select index_copy_ zero_ fill_ zeros zeros_like contiguous clone _to_copy".split()
}
FROZEN_PRODUCTS = {"rankwise::sum_products", "rankwise::float8_product", "rankwise::float8_product_transposed"}
GEMM_OPERATORS = {f"aten::{name}" for name in "mm addmm addmm_ bmm _scaled_mm".split()}
GEMM_OPERATORS |= {"rankwise::sum_products", "rankwise::large_gemm"}
GEMM_KERNEL = re.compile(r"gemm|gemv|cutlass|nvjet|cublas|xmma|splitK", re.IGNORECASE)
ON_DEVICE = {"kernel", "gpu_memcpy", "gpu_memset"}
LAUNCHES = {"cuda_runtime", "cuda_driver"}
GRAPH_LAUNCH = "cudaGraphLaunch"


@dataclass
class Work:
    """A kernel or copy of a device, or the time of an operator on a CPU."""

    name: str
    operators: tuple  # around it, the innermost last
    step: int | None
    begin: float  # microseconds
    end: float
    busy: float
    stream: tuple | None = None


def class_of(name, operators):
    innermost = operators[-1] if operators else ""
    where = " ".join((name, *operators))
    if innermost == GRAPH_LAUNCH:
        return GRAPHS
    if LOW_RANK.search(where):
        return SMALL
    for own, pattern in OWN.items():
        if re.search(pattern, where):
            return own
    if innermost in COPY_OPERATORS or name.startswith(("Memcpy", "Memset")):
        return COPIES
    if ATTENTION.search(where):
        return BACKWARD if re.search("backward|bwd|bprop", where) else FORWARD
    if "elementwise" in name or not (innermost in GEMM_OPERATORS or GEMM_KERNEL.search(name)):
        return REST
    frozen = FROZEN_PRODUCTS & set(operators) and "rankwise::narrow_product" not in operators
    return LARGE if frozen or not operators else SMALL


def end_of(event):
    return event["ts"] + event["dur"]


def host_work(events):
    """The operators of the host as Work, and {(kind of id, id): (operators, step)} of what it started on a device."""
    work, started, steps = [], {}, 0
    open_work = collections.defaultdict(list)  # by thread, the innermost last
    for event in sorted(events, key=lambda e: (e["ts"], -e["dur"])):
        stack = open_work[event["pid"], event["tid"]]
        while stack and stack[-1].end <= event["ts"]:
            stack.pop()
        outer, name = stack[-1] if stack else Work("", (), None, 0, 0, 0), event["name"]
        if event["cat"] in LAUNCHES:
            operators = (*outer.operators, name) if name == GRAPH_LAUNCH else outer.operators
            started["correlation", event.get("args", {}).get("correlation")] = operators, outer.step
            continue
        own = Work(name, (*outer.operators, name), outer.step, event["ts"], end_of(event), event["dur"])
        if name == STEP:
            own.step, own.operators, steps = steps, (), steps + 1
        started["External id", event.get("args", {}).get("External id")] = own.operators, own.step
        outer.busy -= own.busy
        stack.append(own)
        work.append(own)
    return work, started


def device_work(events, started):
    for event in events:
        by_id = [started.get((kind, event["args"].get(kind, -1))) for kind in ("correlation", "External id")]
        operators, step = next((found for found in by_id if found and found[1] is not None), ((), None))
        stream = event["pid"], event["tid"]
        yield Work(event["name"], operators, step, event["ts"], end_of(event), event["dur"], stream)


def is_nccl(work):
    return work.name.lower().startswith("nccl")


def compute_stream(device):
    """The stream that is busy for longest."""
    busy = collections.Counter()
    for work in device:
        busy[work.stream] += 0 if is_nccl(work) else work.busy
    return busy.most_common(1)[0][0]


def covered(work):
    """Microseconds in which some of it runs."""
    total, reached = 0, float("-inf")
    for each in sorted(work, key=lambda w: w.begin):
        total += max(0, each.end - max(each.begin, reached))
        reached = max(reached, each.end)
    return total


@dataclass
class Profile:
    steps: int
    on_device: bool
    step: float  # microseconds
    time: dict  # by class, microseconds a step
    count: dict  # by class, of kernels or operators a step
    names: dict  # (class, name): microseconds a step
    facts: dict | None


def measured(work, window, steps):
    """(time, count, names) a step of what runs one after the other, gaps included."""
    time, count, names = (collections.Counter() for _ in range(3))
    for each in work:
        kind = BESIDE if is_nccl(each) else class_of(each.name, each.operators)
        time[kind] += each.busy / steps
        count[kind] += 1 / steps
        names[kind, each.name] += each.busy / steps
    time[GAPS] = (window - (covered(work) if work and work[0].stream else sum(each.busy for each in work))) / steps
    return time, count, names


def profile(trace):
    """Of a trace as it was parsed. Throws ValueError where it holds no step."""
    events = [event for event in trace["traceEvents"] if event.get("ph") == "X" and "dur" in event]
    host, started = host_work(event for event in events if event.get("cat") in LAUNCHES | {"cpu_op"})
    all_steps = [work for work in host if work.name == STEP]
    if not all_steps:
        raise ValueError(f"no {STEP} in it: not a trace of rankwise bench")
    counted = all_steps[1:] or all_steps
    first, steps = counted[0].step, len(counted)
    device = list(device_work([event for event in events if event.get("cat") in ON_DEVICE], started))
    if not device:
        work = [each for each in host if each.step is not None and each.step >= first and each.name != STEP]
        window = counted[-1].end - counted[0].begin
        return Profile(steps, False, window / steps, *measured(work, window, steps), trace.get("rankwise"))
    stream = compute_stream(device)
    work = [each for each in device if each.stream == stream and each.step is not None and each.step >= first]
    begin, end = min(each.begin for each in work), max(each.end for each in work)
    work = [each for each in device if each.stream == stream and begin <= each.begin < end]
    time, count, names = measured(work, end - begin, steps)
    beside = [each for each in device if each.stream != stream and begin <= each.begin < end]
    time[BESIDE] += covered(beside) / steps
    count[BESIDE] += len(beside) / steps
    return Profile(steps, True, (end - begin) / steps, time, count, names, trace.get("rankwise"))


def cells(kind, found, ideal):
    milliseconds = found.time[kind] / 1e3
    row = [kind, f"{milliseconds:.2f}", f"{found.time[kind] / found.step:.1%}", f"{found.count[kind]:.0f}"]
    if not ideal:
        return row
    if kind not in ideal:
        return [*row, "", ""]
    return [*row, f"{1e3 * ideal[kind]:.2f}", f"{milliseconds / (1e3 * ideal[kind]):.2f}"]


def said(rates, facts):
    float8 = f", {rates.float8_tflops:g} in float8" if facts.get("base_dtype") == "float8" else ""
    return f"Ideal: {rates.tflops:g} TFLOP/s{float8}, {rates.tbs:g} TB/s."


def table(found, rates):
    """Markdown."""
    by_class = found.on_device and not found.time[GRAPHS]
    ideal = ideal_seconds(found.facts, rates) if found.facts and by_class else {}
    columns = ["class", "ms a step", "of it", "kernels" if found.on_device else "operators"]
    rows = [cells(kind, found, ideal) for kind in CLASSES if found.time[kind] or kind in ideal or kind == GAPS]
    total = ["step", f"{found.step / 1e3:.2f}", "", ""]
    if ideal:
        columns += ["ideal ms", "x ideal"]
        least = 1e3 * sum(ideal.values())
        total += [f"{least:.2f}", f"{found.step / 1e3 / least:.2f}"]
    lines = [columns, ["---"] * len(columns), *rows, total]
    note = ["", said(rates, found.facts)] if ideal else []
    return "\n".join([*("| " + " | ".join(line) + " |" for line in lines), *note])


def longest(found, count):
    """Markdown: the names that take most, a step."""
    lines = ["| ms a step | class | name |", "|---|---|---|"]
    for (kind, name), time in sorted(found.names.items(), key=lambda item: -item[1])[:count]:
        lines.append(f"| {time / 1e3:.2f} | {kind} | `{name.replace('|', '/')[:160]}` |")
    return "\n".join(lines)


def read(path):
    with (gzip.open if path.suffix == ".gz" else open)(path, "rt", encoding="utf-8", errors="replace") as file:
        return profile(json.load(file))


def parse():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("trace", type=Path, help="FILE of rankwise bench --trace FILE; .gz too")
    parser.add_argument("--tflops", type=float, default=Rates.tflops, help="of GEMMs and attention, for the ideal")
    parser.add_argument("--float8-tflops", type=float, default=Rates.float8_tflops, help="of GEMMs in float8, likewise")
    parser.add_argument("--tbs", type=float, default=Rates.tbs, help="TB/s of all else, likewise")
    parser.add_argument("--top", type=int, default=0, metavar="N", help="name the N kernels that take most, too")
    parser.add_argument("--output", type=Path, help="Markdown, besides the terminal")
    return parser.parse_args()


def main():
    options = parse()
    found = read(options.trace)
    text = table(found, Rates(options.tflops, options.tbs, options.float8_tflops))
    if options.top:
        text += "\n\n" + longest(found, options.top)
    print(text)
    if options.output:
        options.output.write_text(text + "\n")


if __name__ == "__main__":
    main()
