"""What storing the base in float8 or NF4 does to the loss: the demo's recipe, each with the same seed, batches and start.

Makes model and data where they are absent, as the demo does. Writes the evaluations of each run, and how far the last
one lies from that of the base as it is, to tests/bench/results/base_formats.md; exits with 1 where that is more than
what is allowed.
"""

import argparse
import datetime
import json
import os
import sys
import tempfile
from pathlib import Path

from machine import ROOT, commit, gpus

sys.path.insert(0, str(ROOT / "tools"))
from demo import RANKWISE, RECIPE, make_inputs  # noqa: E402
from processes import run_tool  # noqa: E402
from support import ToolFailure  # noqa: E402

FORMATS = ["same", "float8", "nf4"]
ALLOWED_PERCENT = {"float8": 1.0}
RESULTS = ROOT / "tests/bench/results/base_formats.md"


def parse(argv):
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", choices=["cuda", "cpu"], default="cuda")
    parser.add_argument("--ranks", type=int, default=1)
    parser.add_argument("--steps", type=int, default=20, help="of training; the recipe warms up for 5")
    parser.add_argument("--evaluations", type=int, default=5, help="of each run, besides the one before the first step")
    parser.add_argument("--rankwise", type=Path, default=ROOT / RANKWISE)
    parser.add_argument("--mpirun", default="mpirun")
    parser.add_argument("--output", type=Path, default=RESULTS)
    return parser.parse_args(argv)


def train(base_dtype, options, directory):
    """{step: loss} of a run's evaluations. Throws ToolFailure if it failed."""
    output = Path(directory) / base_dtype
    settings = {
        "run.output_dir": output,
        "model.base_dtype": base_dtype,
        "parallel.device": options.device,
        "train.max_steps": options.steps,
        "train.eval_steps": max(options.steps // options.evaluations, 1),
        "train.save_steps": 0,
        "monitoring.listen": "null",
    }
    command = [options.mpirun, "-np", options.ranks, "--bind-to", "none", "--oversubscribe", options.rankwise.resolve()]
    command += ["train", RECIPE]
    for key, value in settings.items():
        command += ["--set", f"{key}={value}"]
    run_tool(command)
    log = map(json.loads, (output / "train_log.jsonl").read_text(encoding="utf-8").splitlines())
    return {entry["step"]: entry["eval_loss"] for entry in log if "eval_loss" in entry}


def last(curve):
    return curve[max(curve)]


def percent_off(curves, name):
    """The last evaluation beside that of the base as it is."""
    return 100 * (last(curves[name]) / last(curves["same"]) - 1)


def missed(curves):
    """Formats that lie further off than allowed."""
    return [name for name, allowed in ALLOWED_PERCENT.items() if not abs(percent_off(curves, name)) <= allowed]


def note(curves, name):
    if name not in ALLOWED_PERCENT:
        return ""
    return f"{ALLOWED_PERCENT[name]:g} % allowed: {'missed' if name in missed(curves) else 'met'}"


def table(curves):
    """Markdown: evaluations by step, of each format; below them the last one beside the base as it is."""
    lines = [["step", *curves], ["---"] * (1 + len(curves))]
    for step in sorted(curves["same"]):
        lines.append([str(step), *(f"{curve[step]:.4f}" for curve in curves.values())])
    lines.append(["beside same", *(f"{percent_off(curves, name):+.2f} %" for name in curves)])
    lines.append(["", *(note(curves, name) for name in curves)])
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def report(curves, options):
    hardware = "; ".join(gpus()) if options.device == "cuda" else "CPU"
    return (
        f"# The loss with a base in float8 and in NF4\n\n`tests/bench/base_formats.py --device {options.device} --ranks "
        f"{options.ranks} --steps {options.steps}` on {datetime.date.today()}, commit {commit()}: {hardware}. "
        f"SmolLM2-135M-Instruct on The Devil's Dictionary by {RECIPE}, one seed, model.base_dtype as named; mean loss of "
        f"the 100 definitions that were not trained on.\n\n{table(curves)}\n"
    )


def compare(options):
    os.chdir(ROOT)
    make_inputs()
    with tempfile.TemporaryDirectory() as directory:
        curves = {base_dtype: train(base_dtype, options, directory) for base_dtype in FORMATS}
    text = report(curves, options)
    options.output.write_text(text, encoding="utf-8")
    print(text)
    return 1 if missed(curves) else 0


def main(argv=None):
    try:
        return compare(parse(argv))
    except ToolFailure as failure:
        print(f"base_formats: {failure}", file=sys.stderr)
        return failure.code


if __name__ == "__main__":
    sys.exit(main())
