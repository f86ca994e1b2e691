"""Speed and memory of training on this machine's CPUs beside PEFT: SmolLM2-135M on the demo's data, two cores.

Contestants run by turns, several rounds, so that what else the machine does meets all of them; the table has the median
of each over the rounds, and the ratio to the fastest PEFT setting of the same round. Writes the table with hardware,
versions and date to tests/bench/results/cpu.md.
"""

import argparse
import datetime
import json
import os
import platform
import re
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from machine import ROOT, commit, cpu

RANKWISE = Path(os.environ.get("RANKWISE_BUILD", ROOT / "build/release")).resolve() / "rankwise"
MODEL, TRAIN = ROOT / "models/SmolLM2-135M-Instruct", ROOT / "data/devil/train.jsonl"
RECIPE = ROOT / "configs/recipes/smollm2_devil.yaml"
RESULTS = ROOT / "tests/bench/results/cpu.md"
WARM_UP = 2


def output_of(command, threads):
    allow = {"OMPI_ALLOW_RUN_AS_ROOT": "1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1"}
    environment = {**os.environ, **allow, "OMP_NUM_THREADS": str(threads), "TOKENIZERS_PARALLELISM": "false"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"{command[0]} ... ended with {done.returncode}:\n{done.stderr}")
    return done.stdout


def peft(dtype, feed, steps):
    rows = 2 if feed == "packed" else 8
    command = [sys.executable, ROOT / "tests/bench/peft_reference.py", "--model", MODEL, "--data", TRAIN]
    command += ["--dtype", dtype, "--feed", feed, "--rows", str(rows), "--steps", str(steps)]
    command += ["--max-length", "512" if feed == "packed" else "256"]
    return json.loads(output_of(command, threads=2).splitlines()[-1])


def rankwise(ranks, threads, steps):
    """A whole run of the recipe: the program's own log has what each step took."""
    with tempfile.TemporaryDirectory() as directory:
        settings = {
            "run.output_dir": directory + "/run",
            "data.cache_dir": ROOT / "runs/cache",
            "data.eval": "[]",
            "train.max_steps": steps,
            "train.warmup_steps": 0,
            "train.eval_steps": 0,
            "train.save_steps": 0,
            "train.per_device_train_batch_size": 2 // ranks,
            "monitoring.listen": "null",
        }
        command = ["mpirun", "--bind-to", "none", "-np", str(ranks), RANKWISE, "train", RECIPE]
        for key, value in settings.items():
            command += ["--set", f"{key}={value}"]
        output_of(command, threads)
        log = [json.loads(line) for line in Path(directory, "run/train_log.jsonl").read_text().splitlines()]
    counted = [entry for entry in log if entry.get("step", 0) > WARM_UP and "step_seconds" in entry]
    seconds = sum(entry["step_seconds"] for entry in counted)
    return {
        "tokens_per_second": sum(entry["input_tokens"] for entry in counted) / seconds,
        "answers_per_second": sum(entry["target_tokens"] for entry in counted) / seconds,
        "peak_bytes": max(entry["peak_memory_bytes"] for entry in counted),
    }


def cpu_flags():
    return set(re.search(r"flags\s*:(.*)", Path("/proc/cpuinfo").read_text()).group(1).split())


def contestants(steps):
    """Name -> one measurement. PEFT's best dtype: bfloat16 takes minutes a step where the CPU does not multiply it."""
    best = "bfloat16" if cpu_flags() & {"avx512_bf16", "amx_bf16"} else "float32"
    return {
        f"PEFT {best}, packed, head on answers": lambda: peft(best, "packed", steps),
        "rankwise, np 1, 2 threads": lambda: rankwise(1, 2, steps),
        "PEFT float32, padded (the usual recipe)": lambda: peft("float32", "padded", steps),
        "rankwise, np 2, 1 thread, sharded base": lambda: rankwise(2, 1, steps),
    }


def cpu_and_extras():
    extras = [flag for flag in ("avx2", "avx512f", "avx512_bf16", "amx_bf16") if flag in cpu_flags()]
    return f"{cpu()}, {' '.join(extras)}"


def table(measured):
    """Rows of the medians; the ratio is taken round by round."""
    peers = [runs for name, runs in measured.items() if name.startswith("PEFT")]
    best = [max(run["tokens_per_second"] for run in round_) for round_ in zip(*peers)]
    lines = ["| | tokens/s | answer tokens/s | x PEFT's best | peak memory a process |", "|---|---|---|---|---|"]
    for name, runs in measured.items():
        middle = {key: statistics.median(run[key] for run in runs) for key in runs[0]}
        ratio = statistics.median(run["tokens_per_second"] / top for run, top in zip(runs, best))
        lines.append(
            f"| {name} | {middle['tokens_per_second']:.0f} | {middle['answers_per_second']:.0f} | {ratio:.2f} "
            f"| {middle['peak_bytes'] / 1e9:.2f} GB |"
        )
    return "\n".join(lines)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--steps", type=int, default=8, help=f"a run; the first {WARM_UP} are not counted")
    options = parser.parse_args()
    runs = contestants(options.steps)
    measured = {name: [] for name in runs}
    for number in range(options.rounds):
        for name, run in runs.items():
            measured[name].append(run())
            print(f"round {number + 1}: {name}: {measured[name][-1]['tokens_per_second']:.1f} tokens/s", flush=True)
    import peft as peft_package
    import torch
    import transformers

    versions = f"torch {torch.__version__}, transformers {transformers.__version__}, peft {peft_package.__version__}"
    text = (
        f"# Training on CPUs beside PEFT\n\n`make bench` on {datetime.date.today()}, commit {commit()}: "
        f"{cpu_and_extras()}; {platform.system()} {platform.release()}; {versions}. SmolLM2-135M-Instruct, The Devil's "
        f"Dictionary, r 8 on all linear layers, loss on answers, AdamW; {options.rounds} rounds by turns of "
        f"{options.steps} steps, the first {WARM_UP} not counted; tokens without padding.\n\n{table(measured)}\n"
    )
    RESULTS.parent.mkdir(exist_ok=True)
    RESULTS.write_text(text)
    print(text)


if __name__ == "__main__":
    main()
