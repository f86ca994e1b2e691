"""A run on devices that loses a rank, or its memory, ends in time and says why."""

import re
import signal
import subprocess
import time

import pytest

from program import ENVIRONMENT, RANKWISE, wait_until

TIMEOUT = 5


def endless(new_run):
    return new_run(train=dict(max_steps=100_000, save_steps=0), comms=dict(timeout_seconds=TIMEOUT))


def wait_for_their_end(processes):
    wait_until(lambda: not any(process.alive() for process in processes), "the end of all ranks", timeout=10)


@pytest.mark.parametrize("ranks", [2])
@pytest.mark.parametrize("victim", [0, 1])
def test_a_killed_rank_ends_the_job(new_run, ranks, victim):
    run = endless(new_run)
    with run.start(ranks) as job:
        processes = job.ranks()
        job.wait_for(lambda: run.last_step() >= 2, "step 2")
        processes[victim].send(signal.SIGKILL)
        assert job.wait(timeout=20) == 128 + signal.SIGKILL
        wait_for_their_end(processes)


@pytest.mark.parametrize("ranks", [2])
@pytest.mark.parametrize("victim", [0, 1])
@pytest.mark.parametrize("peer_copies", [True, False])
def test_a_rank_that_hangs_is_named(new_run, ranks, victim, peer_copies):
    run = new_run(
        train=dict(max_steps=100_000, save_steps=0), comms=dict(timeout_seconds=TIMEOUT, peer_copies=peer_copies)
    )
    with run.start(ranks) as job:
        processes = job.ranks()
        job.wait_for(lambda: run.last_step() >= 2, "step 2")
        processes[victim].send(signal.SIGSTOP)
        stopped = time.monotonic()
        assert job.wait(timeout=60) == 71
        assert time.monotonic() - stopped < TIMEOUT + 5
        wait_for_their_end(processes)
    assert re.search(rf"stopped: rank {victim} \([^)]*\), whose process does not run", job.output()), job.output()


@pytest.mark.parametrize("ranks", [1])
def test_out_of_memory_says_what_was_allocated_and_what_to_change(tmp_path, ranks):
    command = [RANKWISE, "bench", "--shape", "1b", "--micro-batch", "4096", "--activations", "save", "--device", "cuda"]
    done = subprocess.run(command, env=ENVIRONMENT, cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert done.returncode == 70, done.stderr
    message = r"rank 0 of 1 on \S+: out of memory on cuda:0 while allocating activations: .* asked for, .*"
    message += r"lower train\.per_device_train_batch_size"
    assert re.search(message, done.stderr), done.stderr
