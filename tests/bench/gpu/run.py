"""Speed and memory of training on this machine's GPUs beside PEFT: Llama shapes with random weights.

First one batch goes through both, so that the same work is compared (parity.py); then the rows of cases.py run by turns,
several rounds. Weights that come from files are drawn into --files where that is not there yet. After every run the
table goes to tests/bench/results/gpu.md, and what was measured to build/bench_gpu.jsonl, from which --continue goes on:
what is measured on one machine belongs into one table. A row that fails says so, and the next one runs. With --trace,
rows run once more at the end, under the profiler: where their steps' time goes stands below the table, and the traces
lie beside the measurements as trace_<row>.json.
"""

import argparse
import contextlib
import datetime
import importlib.metadata
import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import step_profile
from cases import SUITES
from ideal import Rates
from table import parity_table, speed, table

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))
from machine import ROOT, commit, gpus  # noqa: E402

sys.path.insert(0, str(ROOT / "tools"))
from processes import started  # noqa: E402

PARITY = "parity"
TITLES = {
    "peers": "Training on GPUs beside PEFT",
    "scaling": "Training on more and more GPUs of a host",
    "bases": "Bases in bfloat16, float8 and NF4 on GPUs",
    "sharded-bases": "Bases in bfloat16, float8 and NF4 sharded over two GPUs",
}
PACKAGES = ("torch", "transformers", "peft", "liger-kernel", "torchao", "bitsandbytes", "unsloth")
BUILD = Path(os.environ.get("RANKWISE_BUILD", ROOT / "build/release"))


def parse():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--suite",
        choices=SUITES,
        default="peers",
        help="scaling: one GPU and more, without peers; bases: in bfloat16, float8 and NF4, on one GPU or sharded; "
        "all three without parity",
    )
    names = {case.name for cases in SUITES.values() for case in cases}
    parser.add_argument("--only", nargs="+", metavar="NAME", choices=[PARITY, *sorted(names)], help="rows to run")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--warm-up", type=int, default=5, help="steps before those, not counted")
    ours = sorted({case.name for cases in SUITES.values() for case in cases if case.stack == "rankwise"})
    parser.add_argument("--trace", nargs="+", default=[], metavar="NAME", choices=ours, help="rows to profile, too")
    parser.add_argument("--limit", type=float, default=300, metavar="SECONDS", help="of one run")
    parser.add_argument(
        "--continue", dest="goes_on", action="store_true", help="run what is missing of an interrupted call"
    )
    parser.add_argument("--rankwise", type=Path, default=BUILD / "rankwise")
    parser.add_argument("--mpirun", default="mpirun")
    parser.add_argument("--device", choices=["cuda", "cpu"], default="cuda")
    parser.add_argument("--shape", help="instead of each row's own: tiny, to try this command")
    parser.add_argument("--files", type=Path, default=ROOT / "build/bench_model", metavar="DIRECTORY")
    parser.add_argument("--sequence-length", type=int, default=2048)
    parser.add_argument(
        "--output", type=Path, help="default: tests/bench/results/gpu.md, of scaling gpu_scaling.md, ..."
    )
    parser.add_argument("--measurements", type=Path, help="default: build/bench_gpu.jsonl, likewise")
    options = parser.parse_args()
    options.cases = SUITES[options.suite]
    name = "gpu" if options.suite == "peers" else f"gpu_{options.suite.replace('-', '_')}"
    options.output = options.output or ROOT / f"tests/bench/results/{name}.md"
    options.measurements = options.measurements or ROOT / f"build/bench_{name}.jsonl"
    return options


def command_of(case, options):
    """Of one run; what comes last on a command line wins."""
    common = f"--micro-batch 4 --sequence-length {options.sequence_length} --steps {options.steps} --warm-up {options.warm_up}"
    own = shlex.split(case.arguments.format(files=options.files.resolve()))
    arguments = [*shlex.split(common), *own, "--device", options.device]
    if options.shape and "--shape" in arguments:
        arguments[arguments.index("--shape") + 1] = options.shape
    if case.stack == "rankwise":
        launcher = [options.mpirun, "--bind-to", "none", "--oversubscribe", "-np", str(case.ranks)]
        visible = ["-x", f"CUDA_VISIBLE_DEVICES={case.gpu}"] if case.gpu else []
        return [*launcher, *visible, options.rankwise.resolve(), "bench", *merged(arguments)]
    torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(case.ranks)]
    return [sys.executable, *(torchrun if case.ranks > 1 else []), HERE / "peft_step.py", *merged(arguments)]


def merged(arguments):
    """Each option once, with its last value."""
    found = {}
    for word in arguments:
        if word.startswith("--"):
            name, found[word] = word, []
        else:
            found[name] = [word]
    return [word for option in found.items() for word in (option[0], *option[1])]


def reason(output):
    """The line of a failed run's output that says most."""
    lines = [line.strip() for line in output.splitlines() if re.search(r"\w", line) and not line.startswith("frame #")]
    for telling in (r"out ?of ?memory", r"error|unknown|not found", ""):
        if found := [line for line in lines if re.search(telling, line, re.IGNORECASE)]:
            return found[-1][:200]
    return "no output"


def make_files(options):
    if not (options.files / "config.json").exists():
        print(f"random weights for {options.files}", flush=True)
        subprocess.run([sys.executable, HERE / "random_model.py", options.shape or "8b", options.files], check=True)


def measure_parity(options):
    longest = min(options.sequence_length, 1024)
    command = [sys.executable, HERE / "parity.py", options.files, "--longest", str(longest), "--device", options.device]
    return outcome_of(command, options)


def measure(case, options, *more):
    """Of a run with `more` arguments."""
    outcome = outcome_of([*command_of(case, options), *more], options)
    result = outcome.get("result", {})
    if result.get("read_bytes"):
        result["loaded_gb_per_second"] = result["read_bytes"] / result["load_seconds"] / 1e9
    return outcome


def outcome_of(command, options):
    """{"result": the last line's JSON}, or {"failed": why}."""
    try:
        with started(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
            output, errors = process.communicate(timeout=options.limit)
    except subprocess.TimeoutExpired:
        return {"failed": f"not done after {options.limit:g} s"}
    except OSError as error:
        return {"failed": str(error)}
    results = [line for line in output.splitlines() if line.startswith("{")]
    if process.returncode or not results:
        return {"failed": f"code {process.returncode}: {reason(output + errors)}"}
    return {"result": json.loads(results[-1])}


def trace_file(name, options):
    return options.measurements.resolve().parent / f"trace_{name}.json"


def trace(case, options):
    """One more run of a row, for its trace; returns what to say of it."""
    file = trace_file(case.name, options)
    outcome = measure(case, options, "--trace", file)
    if "failed" in outcome:
        file.unlink(missing_ok=True)
    return outcome.get("failed", f"traced to {file}")


def profiles(options):
    """Markdown: where a step's time goes in each row that was traced."""
    for name in options.trace:
        if (file := trace_file(name, options)).exists():
            yield f"## Where a step of {name} goes\n\n{step_profile.table(step_profile.read(file), rates())}\n\n"


def parity_report(measurements):
    """Markdown: the same batch through both, if it was."""
    for m in measurements:
        if m["case"] == PARITY and "result" in m:
            yield (
                f"## The same batch through both\n\n{m['result']['tokens']:,} tokens of 4 samples, weights from the same "
                f"files, one adapter; distances from PEFT in float32, relative.\n\n{parity_table(m['result'])}\n\n## Speed\n\n"
            )
        elif m["case"] == PARITY:
            yield f"The same batch through both: failed: {m['failed']}\n\n"


def as_typed(command, options):
    """What somebody would type in the repository, with the programs on PATH."""
    short = {str(options.rankwise.resolve()): "rankwise", sys.executable: "python3"}
    return shlex.join(short.get(str(word), str(word)) for word in command).replace(f"{ROOT}/", "")


def rates():
    """For a profile's ideal; what this machine's GPUs copy was measured: H100 3.0 TB/s, H200 4.2."""
    return Rates(tbs=3.0 if any("H100" in gpu for gpu in gpus()) else 4.2)


def versions():
    """Of PEFT's side, as far as it is installed: the packages of peer_packages.py need not be."""
    for name in PACKAGES:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            yield f"{name} {importlib.metadata.version(name)}"


def suite_argument(options):
    return "" if options.suite == "peers" else f' BENCH="--suite {options.suite}"'


def report(measurements, options):
    hardware = "; ".join(gpus()) or "no GPU"
    commands = "\n".join(
        f"{case.name}: {as_typed(command_of(case, options), options)}"
        for case in options.cases
        if any(m["case"] == case.name for m in measurements)
    )
    return (
        f"# {TITLES[options.suite]}\n\n`make bench-gpu{suite_argument(options)}` on {datetime.date.today()}, commit {commit()}: {hardware}; "
        f"{', '.join(versions())}. Random bfloat16 weights, LoRA r 16 on all linear layers, random tokens that are all "
        f"in the loss, AdamW; rows by turns, each run {options.steps} steps after {options.warm_up} of warm-up. Peak: the "
        f"framework's allocator, with Rankwise NCCL's buffers too; driver's: all that is in use on the GPU at the end.\n\n"
        f"{''.join(parity_report(measurements))}{table(options.cases, measurements)}\n\n{saved_bytes(measurements, options)}{''.join(profiles(options))}```\n{commands}\n```\n"
    )


def saved_bytes(measurements, options):
    """Markdown: what a layer keeps for backward, from models of 32 and of 16 layers; nothing unless both were measured."""
    turn = {
        m["case"]: m["result"]["turn_activation_bytes"]
        for m in measurements
        if "turn_activation_bytes" in m.get("result", {})
    }
    if not {"8b", "8b-half"} <= turn.keys():
        return ""
    each = (turn["8b"] - turn["8b-half"]) / 16 / (4 * options.sequence_length)
    return f"Kept for backward, 8b and 8b-half: {each:,.0f} bytes a token and layer (at most 95,000 wanted).\n\n"


def wanted_cases(options):
    available = len(gpus()) if options.device == "cuda" else 2
    for case in options.cases:
        if case.gpu + case.ranks <= available and (not options.only or case.name in options.only):
            yield case


def runs(options):
    """(round, name, what to call) of all that is to be measured, by turns."""
    cases = list(wanted_cases(options))
    if PARITY in (options.only or ([PARITY] if options.suite == "peers" else [])):
        yield 0, PARITY, lambda: measure_parity(options)
    for round_number in range(1, options.rounds + 1):
        for case in cases:
            yield round_number, case.name, lambda case=case: measure(case, options)


def unfinished(measurements, options):
    done = {(m["round"], m["case"]) for m in measurements}
    return [run for run in runs(options) if run[:2] not in done]


def needs_files(runs, options):
    reading = {PARITY, *(case.name for case in options.cases if "{files}" in case.arguments)}
    return any(name in reading for _, name, _ in runs)


def measured_before(store):
    """What came to an end; what failed is tried again."""
    lines = store.read_text().splitlines() if store.exists() else []
    return [m for m in map(json.loads, lines) if "result" in m]


def said(measurement):
    """Of what was just measured."""
    if "failed" in measurement:
        outcome = measurement["failed"]
    elif measurement["case"] == PARITY:
        outcome = "done"
    else:
        outcome = f"{speed(measurement):,.0f} tokens/s"
    return f"round {measurement['round']}: {measurement['case']}: {outcome}"


def keep(measurements, options):
    options.measurements.write_text("".join(json.dumps(m) + "\n" for m in measurements))
    options.output.write_text(report(measurements, options))


def main():
    options = parse()
    options.measurements.parent.mkdir(exist_ok=True)
    for name in options.trace:
        trace_file(name, options).unlink(missing_ok=True)
    measurements = measured_before(options.measurements) if options.goes_on else []
    todo = unfinished(measurements, options)
    if needs_files(todo, options):
        make_files(options)
    for round_number, name, call in todo:
        measurements.append({"case": name, "round": round_number, **call()})
        keep(measurements, options)
        print(said(measurements[-1]), flush=True)
    for case in options.cases:
        if case.name in options.trace:
            print(f"{case.name}: {trace(case, options)}", flush=True)
            keep(measurements, options)
    if not measurements:
        sys.exit("nothing ran: each row wants as many GPUs as it has ranks")


if __name__ == "__main__":
    main()
