"""A training run: what it leaves behind, that it learns, that its layout does not change its numbers, what it sends."""

import re
import xml.etree.ElementTree as ElementTree

import pytest
import yaml

from frozen_base import FrozenBase
from program import ON_GPUS, missing_gpus
from program import run as run_program
from runs import write_data

STEP_FIELDS = {
    "step": int,
    "epoch": float,
    "loss": float,
    "grad_norm": float,
    "learning_rate": float,
    "target_tokens": int,
    "input_tokens": int,
    "tokens_per_second": float,
    "step_seconds": float,
    "peak_memory_bytes": int,
}
EVAL_FIELDS = {"step": int, "eval_loss": float, "eval_target_tokens": int}
WORLDS = [0, 1, 2]  # 0: without a launcher


def with_evaluation(tiny):
    return {"eval": [{"path": str(tiny.directory / "valid.jsonl"), "format": "messages"}]}


@pytest.mark.parametrize("ranks", WORLDS)
def test_a_run_leaves_its_files_and_has_learned(tiny, new_run, ranks):
    run = new_run(train=dict(eval_steps=6), data=with_evaluation(tiny))
    run.train(ranks)
    assert sorted(path.name for path in run.output.iterdir()) == sorted(
        [
            "LOCK",
            "checkpoint-12",
            "checkpoint-4",
            "checkpoint-8",
            "config.yaml",
            "final",
            "loss.svg",
            "metrics.prom",
            "train_log.jsonl",
        ]
    )
    assert_log(run)
    assert_config(run)
    svg = ElementTree.parse(run.output / "loss.svg").getroot()
    assert svg.tag == "{http://www.w3.org/2000/svg}svg"
    drawn = "".join(svg.itertext())
    assert "tiny" in drawn and "eval" in drawn
    for directory in ["final", "checkpoint-12"]:
        names = {path.name for path in (run.output / directory).iterdir()}
        assert names >= {"adapter_model.safetensors", "adapter_config.json", "README.md"}
    losses = run.losses()
    assert sum(losses[-3:]) < 0.9 * sum(losses[:3])
    assert run.evaluations()[-1]["eval_loss"] < run.evaluations()[0]["eval_loss"]


def assert_log(run):
    for entry in run.log():
        fields = STEP_FIELDS if "loss" in entry else EVAL_FIELDS
        assert {name: type(value) for name, value in entry.items()} == fields, entry
    assert [entry["step"] for entry in run.steps()] == list(range(1, 13))
    assert [entry["step"] for entry in run.evaluations()] == [0, 6, 12]
    for entry in run.steps():
        assert 0 < entry["target_tokens"] < entry["input_tokens"]
        assert entry["tokens_per_second"] == pytest.approx(entry["input_tokens"] / entry["step_seconds"])
        assert 2**20 < entry["peak_memory_bytes"] < 2**32


def assert_config(run):
    """config.yaml holds every value that was given, and starts the same run."""
    resolved = yaml.safe_load((run.output / "config.yaml").read_text())
    for section, values in run.settings.items():
        for key, value in values.items():
            assert resolved[section][key] == value, f"{section}.{key}"
    shown = run_program(run.directory, 0, "check", run.output / "config.yaml")
    assert shown.startswith((run.output / "config.yaml").read_text())


def test_a_second_start_of_a_finished_run_changes_nothing(new_run):
    run = new_run(train=dict(max_steps=3, save_steps=3))
    run.train(0)
    hashes, log = run.state_hashes(), run.log()
    run.train(0)
    assert (run.state_hashes(), run.log()) == (hashes, log)


def losses(run, ranks):
    run.train(ranks)
    return run.losses()


def test_layout_does_not_change_the_losses(new_run):
    """Every step holds every sample, as single rows or packed: the same numbers whoever computes what."""
    plain = new_run("plain", data=dict(packing=False), train=dict(global_batch_size=48, max_steps=4, save_steps=4))
    expected = losses(plain, 0)
    assert expected[-1] < 0.99 * expected[0], "nothing was learned, so nothing was compared"
    prepared = run_program(plain.directory, 0, "prepare", new_run("rows").config)
    packed_rows = int(re.search(r"48 samples in (\d+) rows", prepared)[1])
    assert packed_rows < 48
    variants = {
        "micro-batches of 16": (0, dict(packing=False), dict(global_batch_size=48, per_device_train_batch_size=16), {}),
        "2 ranks": (2, dict(packing=False), dict(global_batch_size=48, per_device_train_batch_size=4), {}),
        "3 ranks": (3, dict(packing=False), dict(global_batch_size=48, per_device_train_batch_size=2), {}),
        "packed": (0, {}, dict(global_batch_size=packed_rows), {}),
        "packed, 2 ranks": (2, {}, dict(global_batch_size=packed_rows), {}),
        "replicated": (2, {}, dict(global_batch_size=packed_rows), dict(base="replicate")),
        "recomputed": (2, {}, dict(global_batch_size=packed_rows), dict(activations="recompute_block", prefetch=0)),
    }
    for name, (ranks, data, train, parallel) in variants.items():
        if reason := missing_gpus(ranks):
            print(f"{name} left out: {reason}")
            continue
        run = new_run(name, data=data, train=dict(max_steps=4, save_steps=4) | train, parallel=parallel)
        assert losses(run, ranks) == pytest.approx(expected, rel=1e-5), name


@pytest.mark.parametrize("ranks, prefetch", [(2, 0), (2, 1), (4, 0)])
def test_a_step_sends_the_adapter_once_and_gathers_the_plan(tiny, new_run, ranks, prefetch):
    run = new_run(
        train=dict(max_steps=400, save_steps=0, global_batch_size=ranks),
        parallel=dict(prefetch=prefetch, activations="save", resident_gib=0),
    )
    with run.start(ranks) as job:
        job.metrics_url()
        steps = "rankwise_train_steps_total"
        first = job.wait_for(lambda: (page := job.metrics()).get(steps, 0) >= 1 and page, "a step")
        later = job.wait_for(lambda: (page := job.metrics()).get(steps, 0) >= first[steps] + 5 and page, "five more")
    num_steps = later[steps] - first[steps]

    transports = ["nccl", "peer"] if ON_GPUS else ["mpi"]

    def sent(op):
        series = [f'rankwise_comm_bytes_total{{op="{op}",rank="0",transport="{name}"}}' for name in transports]
        return sum(later[each] - first[each] for each in series) / num_steps

    adapter_bytes = 4 * 34_944  # r = 8 on every linear layer, in float32; a fact of the tiny model's shape
    scalars = 6 * 8
    assert sent("all_reduce") == adapter_bytes + scalars
    assert sent("all_gather") == 4 * FrozenBase.read(tiny.model).received_a_micro_batch(ranks, prefetch)


STEPS = "rankwise_train_steps_total"
PHASES_OF_A_STEP = ["data", "forward", "backward", "gather", "allreduce", "optimizer"]


def phases_between(first, later):
    """({phase: seconds}, seconds of the steps) of rank 0 between two metrics pages."""

    def passed(series):
        return later[series] - first[series]

    phases = {p: passed(f'rankwise_train_phase_seconds_total{{phase="{p}",rank="0"}}') for p in PHASES_OF_A_STEP}
    return phases, passed("rankwise_train_step_duration_seconds_sum")


@pytest.mark.skipif(ON_GPUS, reason="the gathers of so small a model hold no GPU up")
def test_the_phases_of_a_step_do_not_overlap(new_run):
    """What is waited for a gather inside forward and backward counts once."""
    run = new_run(train=dict(max_steps=400, save_steps=0), parallel=dict(prefetch=0, resident_gib=0))
    with run.start(2) as job:
        job.metrics_url()
        pages = [job.wait_for(lambda: (page := job.metrics()).get(STEPS, 0) >= 1 and page, "a step")]

        def twenty_steps_that_gathered():
            """(phases, duration) of a stretch: how long ranks wait for gathers depends on how they meet."""
            pages.append(job.metrics())
            if pages[-1].get(STEPS, 0) < pages[0][STEPS] + 20:
                pages.pop()
                return None
            phases, duration = phases_between(*pages)
            del pages[0]
            return phases["gather"] > 0.1 * duration and (phases, duration)

        phases, duration = job.wait_for(twenty_steps_that_gathered, "enough gathered to see an overlap")
    assert 0.5 * duration < sum(phases.values()) <= duration, phases


def test_fewer_records_than_ranks(tiny, new_run):
    """Ranks without a row, in training and in evaluation, hold nobody up and change nothing."""
    files = {
        part: [{"path": str(write_data(tiny.directory / f"one-{part}.jsonl", 1, seed=3)), "format": "messages"}]
        for part in ("train", "eval")
    }
    short = dict(max_steps=3, save_steps=3, global_batch_size=1, warmup_steps=0)
    run = new_run(data=files, train=short)
    run.train(3)
    alone = new_run("alone", data=files, train=short)
    assert run.losses() == pytest.approx(losses(alone, 0), rel=1e-5)
    assert [e["eval_loss"] for e in run.evaluations()] == pytest.approx(
        [e["eval_loss"] for e in alone.evaluations()], rel=1e-5
    )


def test_an_uneven_last_batch_does_not_hang(new_run):
    """An epoch of rows that neither the batch nor the ranks divide: some ranks have nothing in the last step."""
    epoch = dict(max_steps=None, num_train_epochs=1, save_steps=0, warmup_steps=0)
    run = new_run(data=dict(packing=False), train=dict(global_batch_size=47) | epoch)
    run.train(3)
    assert [entry["epoch"] for entry in run.steps()] == pytest.approx([47 / 48, 1.0])
    alone = new_run("alone", data=dict(packing=False), train=dict(global_batch_size=47) | epoch)
    assert run.losses() == pytest.approx(losses(alone, 0), rel=1e-5)
