"""A number that changes in one rank's memory, and nowhere else: the rank is named, and nothing of its adapter is saved."""

import re
import signal
from pathlib import Path

import pytest
from safetensors.numpy import load_file

from program import parse_metrics

# A's stay as they were drawn in every bit, so that they can be found in a process and afterwards in the checkpoints.
SAVE_STEPS = 20
PATTERN_BYTES = 64
LOWEST, EXPONENT = 0x01, 0x40  # of the last byte of a float32, in which its sign is 0x80
SELDOM = 1_000_000
ON_CPUS = dict(device="cpu")  # where another process reaches memory
STANDING = dict(max_steps=100_000, learning_rate=1e-30, weight_decay=0.0, eval_steps=0, save_steps=SAVE_STEPS)


def writable_memory(pid):
    for line in Path(f"/proc/{pid}/maps").read_text().splitlines():
        span, permissions = line.split()[:2]
        if permissions.startswith("rw"):
            yield [int(end, 16) for end in span.split("-")]


def flip_a_bit(pid, pattern, bit=LOWEST):
    """A bit of the last byte, wherever the process holds `pattern`; how many places that were."""
    places = 0
    try:
        memory = open(f"/proc/{pid}/mem", "r+b", buffering=0)
    except PermissionError:
        pytest.skip("this host lets nobody write another process's memory")
    with memory:
        for begin, end in writable_memory(pid):
            memory.seek(begin)
            try:
                held = memory.read(end - begin)
            except (OSError, MemoryError):  # a device's pages
                continue
            for found in re.finditer(re.escape(pattern), held):
                memory.seek(begin + found.end() - 1)
                memory.write(bytes([pattern[-1] ^ bit]))
                places += 1
    return places


def drawn(run, step):
    """Some A's bytes in a checkpoint."""
    tensors = load_file(run.checkpoint(step) / "adapter_model.safetensors")
    return next(tensor for name, tensor in sorted(tensors.items()) if "lora_A" in name).tobytes()


def flip_between_saves(run, job, process, pattern, bit):
    """While the process stands still, and no save is under way."""

    def stands_between_saves():
        process.send(signal.SIGSTOP)
        if 3 <= run.last_step() % SAVE_STEPS <= SAVE_STEPS - 3:
            return True
        process.send(signal.SIGCONT)
        return False

    job.wait_for(stands_between_saves, "a moment between two saves")
    assert flip_a_bit(process.pid, pattern, bit) > 0
    process.send(signal.SIGCONT)


OUTVOTED = r"rank\(s\) {} on \S+ hold other numbers than the others in the adapter"
OF_TWO = (
    r"rank\(s\) {} on \S+ hold other numbers than rank\(s\) 0 on \S+ in the adapter, and which are right cannot be told"
)


@pytest.mark.parametrize(
    "ranks, victim, every, bit, who",
    [
        (4, 2, 7, LOWEST, OUTVOTED),
        (4, 0, SELDOM, LOWEST, OUTVOTED),  # seen before the next save
        (4, 2, SELDOM, EXPONENT, OUTVOTED),  # steps are not finite from there on
        (2, 1, 7, LOWEST, OF_TWO),
    ],
)
def test_a_bit_that_flips_in_one_rank_is_seen(new_run, ranks, victim, every, bit, who):
    first = new_run("first", train=STANDING | dict(max_steps=2, save_steps=0), parallel=ON_CPUS)
    first.train(ranks)
    pattern = drawn(first, 2)
    run = new_run(train=STANDING | dict(integrity_check_steps=every), parallel=ON_CPUS)
    with run.start(ranks) as job:
        flip_between_saves(run, job, job.ranks()[victim], pattern, bit)
        assert job.wait() == 71, job.output()
    assert len(re.findall(who.format(victim), job.output())) == 1, job.output()
    assert all(drawn(run, step) == pattern for step in run.checkpoints())


@pytest.mark.parametrize("ranks", [1, 2])
@pytest.mark.parametrize("name", ["model.layers.1.mlp.down_proj.weight", "model.norm.weight"])
def test_a_bit_that_flips_in_the_base_is_seen(new_run, tiny, ranks, name):
    whole = load_file(tiny.model / "model.safetensors")[name].tobytes()
    run = new_run(train=STANDING | dict(save_steps=0, integrity_check_steps=7), parallel=ON_CPUS)
    with run.start(ranks) as job:
        job.wait_for(lambda: run.last_step() >= 1, "step 1")
        victim = job.ranks()[-1]
        # The last rank of a sharded base has its end, one of a group alone all of it, and norms lie on all.
        victim.send(signal.SIGSTOP)
        assert flip_a_bit(victim.pid, whole[-PATTERN_BYTES:]) > 0
        victim.send(signal.SIGCONT)
        assert job.wait() == 71, job.output()
    message = rf"step \d+: the frozen base that rank\(s\) {ranks - 1} on \S+ hold is not what was loaded: a memory"
    assert len(re.findall(message, job.output())) == 1, job.output()


@pytest.mark.parametrize("every, checks", [(0, 0), (4, 3)])
def test_ranks_compare_as_often_as_they_should(new_run, every, checks):
    run = new_run(train=dict(max_steps=10, save_steps=8, integrity_check_steps=every))
    run.train(2)
    page = parse_metrics((run.output / "metrics.prom").read_text())
    assert page["rankwise_train_integrity_checks_total"] == checks
