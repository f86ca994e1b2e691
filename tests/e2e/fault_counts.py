"""How often a fault is tried, at which moments, and what came of it.

Three times each. RANKWISE_FULL=1 (`make faults`): as often as each test says; RANKWISE_TIMES=N: another number.
RANKWISE_SEED=S repeats the moments of an earlier session. RANKWISE_RESULTS=FILE: a row for each fault goes there.
"""

import datetime
import os
import platform
import random
import sys

from kills import seed_of_this_session
from program import ROOT

sys.path.insert(0, str(ROOT / "tests/bench"))
from machine import commit, cpu  # noqa: E402

HEAD = ["| fault | times | as it should be | longest | what else |", "|---|---|---|---|---|"]


def times(full):
    return int(os.environ.get("RANKWISE_TIMES", full if os.environ.get("RANKWISE_FULL") else 3))


def moments_of_this_session():
    """A generator of random numbers whose seed is printed."""
    seed = seed_of_this_session()
    print(f"RANKWISE_SEED={seed}")
    return random.Random(seed), seed


def machine():
    return f"{datetime.date.today()}, commit {commit()}: {cpu()}; Linux {platform.release()}"


def write_row(fault, tried, right, longest, note):
    """Adds to the file of results, which keeps one row a fault."""
    if not (name := os.environ.get("RANKWISE_RESULTS")):
        return
    file = ROOT / name
    old = file.read_text().splitlines() if file.exists() else []
    rows = [line for line in old if line.startswith("| ") and line not in HEAD and not line.startswith(f"| {fault} |")]
    rows.append(f"| {fault} | {tried} | {right} | {longest} | {note} |")
    file.parent.mkdir(exist_ok=True)
    title = "# Faults at random moments of a run\n\n`make faults`, "
    about = (
        "The tiny model on two ranks, 24 steps; moments drawn evenly over the run, and again where the run had nothing "
        "left to disturb. Before the first step there is nothing to save, and a stop is its exit code."
    )
    file.write_text(f"{title}{machine()}. {about}\n\n" + "\n".join([*HEAD, *rows]) + "\n")
