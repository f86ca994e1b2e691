"""The learning rate of every step, beside transformers' get_scheduler."""

import os
import subprocess
import warnings
from pathlib import Path

import pytest
import torch
from transformers import get_scheduler

REPO = Path(__file__).resolve().parents[2]
TOOL = REPO / os.environ.get("RANKWISE_BUILD", "build/release") / "tests/support/schedule_tool"


def ours(kind, peak, warmup, total):
    run = subprocess.run([TOOL, kind, repr(peak), str(warmup), str(total)], capture_output=True, text=True, timeout=60)
    assert run.returncode == 0, f"exit code {run.returncode}: {run.stderr}"
    return [float(line) for line in run.stdout.split()]


def theirs(kind, peak, warmup, total):
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=peak)
    scheduler = get_scheduler(kind, optimizer, num_warmup_steps=warmup, num_training_steps=total)
    rates = []
    for _ in range(total):
        rates.append(optimizer.param_groups[0]["lr"])  # what the coming update uses
        with warnings.catch_warnings(action="ignore"):  # "lr_scheduler.step() before optimizer.step()"
            scheduler.step()
    return rates


@pytest.mark.parametrize("kind", ["linear", "cosine", "constant", "constant_with_warmup"])
@pytest.mark.parametrize(("warmup", "total"), [(0, 1), (0, 40), (1, 40), (7, 100), (100, 100), (13, 1000)])
def test_every_step_has_the_learning_rate_of_transformers(kind, warmup, total):
    assert ours(kind, 2e-4, warmup, total) == pytest.approx(theirs(kind, 2e-4, warmup, total), rel=1e-12, abs=1e-19)
