"""A run on devices that loses a rank, or its memory, ends in time and says why."""

import re
import signal
import time

import pytest

from program import run, wait_for_their_end

TIMEOUT = 5


def endless(new_run, **comms):
    return new_run(train=dict(max_steps=100_000, save_steps=0), comms=dict(timeout_seconds=TIMEOUT) | comms)


@pytest.mark.parametrize("ranks", [2, 4])
@pytest.mark.parametrize("victim", [0, 1])
def test_a_killed_rank_ends_the_job(new_run, ranks, victim):
    run = endless(new_run)
    with run.start(ranks) as job:
        processes = job.ranks()
        job.wait_for(lambda: run.last_step() >= 2, "step 2")
        processes[victim].send(signal.SIGKILL)
        assert job.wait(timeout=20) == 128 + signal.SIGKILL
        wait_for_their_end(processes, timeout=10)


@pytest.mark.parametrize("ranks", [2, 4])
@pytest.mark.parametrize("victim", [0, 1])
@pytest.mark.parametrize("peer_copies", [True, False])
def test_a_rank_that_hangs_is_named(new_run, ranks, victim, peer_copies):
    run = endless(new_run, peer_copies=peer_copies)
    with run.start(ranks) as job:
        processes = job.ranks()
        job.wait_for(lambda: run.last_step() >= 2, "step 2")
        processes[victim].send(signal.SIGSTOP)
        stopped = time.monotonic()
        assert job.wait(timeout=60) == 71
        assert time.monotonic() - stopped < TIMEOUT + 5
        wait_for_their_end(processes, timeout=10)
    assert re.search(rf"stopped: rank {victim} \([^)]*\), whose process does not run", job.output()), job.output()


@pytest.mark.parametrize("ranks", [1])
def test_out_of_memory_says_what_was_allocated_and_what_to_change(tmp_path, ranks):
    too_much = ["--shape", "1b", "--micro-batch", 4096, "--activations", "save", "--device", "cuda"]
    output = run(tmp_path, 0, "bench", *too_much, expect=70, timeout=120)
    message = r"rank 0 of 1 on \S+: out of memory on cuda:0 while allocating activations: .* asked for, .*"
    message += r"lower train\.per_device_train_batch_size"
    assert re.search(message, output), output
