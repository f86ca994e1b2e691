"""What `make test-gpu` asks of tests that follow a device: a GPU for each rank, or the test skips and says why.

It sets RANKWISE_TEST_DEVICE=cuda. Without that nothing skips: the program takes what it finds, parity tests take CPUs.
"""

import functools
import os

import pytest

DEVICE = os.environ.get("RANKWISE_TEST_DEVICE")
ON_GPUS = DEVICE == "cuda"


@functools.cache
def num_gpus():
    import torch  # takes seconds, and most tests need not know

    return torch.cuda.device_count()


def too_few_gpus(ranks):
    """Why so many ranks cannot have a GPU each; empty where they can."""
    return f"{ranks} GPU(s) needed, {num_gpus()} here" if num_gpus() < ranks else ""


def missing_gpus(ranks):
    """The same, of tests that run on CPUs too: empty unless GPUs are asked for."""
    return too_few_gpus(ranks) if ON_GPUS else ""


def skip_without_gpus(ranks):
    if reason := missing_gpus(ranks):
        pytest.skip(reason)
