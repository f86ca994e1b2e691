"""Where the base lies and how it comes to a device does not change the numbers, and costs what was planned."""

import pytest

from program import printed_json, run
from runs import Run

FLOAT32_LOSS = 1e-5  # relative: docs/design.md, tolerances
STEPS = dict(max_steps=12, save_steps=0, deterministic=True)


@pytest.fixture(scope="module")
def reference(tiny, tmp_path_factory):
    """The losses of one device that keeps everything."""
    parallel = dict(device="cuda", base="replicate", activations="save")
    run = Run(tmp_path_factory.mktemp("reference"), tiny.settings(train=STEPS, parallel=parallel))
    run.train(1)
    return run.losses()


@pytest.mark.parametrize(
    "ranks, parallel, comms",
    [
        (1, dict(base="replicate", activations="recompute_mlp"), {}),
        (1, dict(base="replicate", activations="recompute_block"), {}),
        (1, dict(base="replicate", activations="offload"), {}),
        (2, dict(base="shard", activations="offload", cpu_offload=True), {}),
        (1, dict(base="replicate", cpu_offload=True), {}),
        (1, dict(base="replicate", cpu_offload=True, prefetch=0), {}),
        (2, dict(base="replicate"), {}),
        (2, dict(base="shard"), {}),
        (2, dict(base="shard", prefetch=0), {}),
        (2, dict(base="shard", resident_gib=0.0002), {}),
        (2, dict(base="shard"), dict(peer_copies=False)),
        (2, dict(base="shard", cpu_offload=True), {}),
    ],
    ids=lambda value: "-".join(f"{k}={v}" for k, v in value.items()) if isinstance(value, dict) else str(value),
)
def test_the_same_losses(new_run, reference, ranks, parallel, comms):
    changed = new_run(train=STEPS, parallel=dict(device="cuda") | parallel, comms=comms)
    changed.train(ranks)
    assert changed.losses() == pytest.approx(reference, rel=FLOAT32_LOSS)


@pytest.mark.parametrize("ranks", [2])
@pytest.mark.parametrize(
    "flags, transport",
    [
        ([], "peer"),
        (["--resident-gib", 0.001, "--prefetch", 0], "peer"),  # some units stay
        (["--no-peer-copies"], "nccl"),
        (["--cpu-offload"], "nccl"),
    ],
)
def test_received_bytes_are_the_plans(tmp_path, ranks, flags, transport):
    steps = ["--micro-batch", 2, "--sequence-length", 256, "--steps", 3, "--warm-up", 2]
    residents = [] if "--resident-gib" in flags else ["--resident-gib", 0]
    shape = ["--shape", "tiny", "--base", "shard", *residents]
    result = printed_json(run(tmp_path, ranks, "bench", *shape, *steps, *flags, timeout=120))
    assert result["gather_transport"] == transport
    assert result["gathered_bytes_per_micro_batch"] == result["planned_gathered_bytes"] > 0


@pytest.mark.parametrize("ranks", [1, 2])
@pytest.mark.parametrize("first, then", [("cuda", "cpu"), ("cpu", "cuda")])
def test_a_run_goes_on_on_another_device(new_run, reference, ranks, first, then):
    run = new_run(
        train=STEPS | dict(max_steps=6, lr_scheduler_type="constant_with_warmup"), parallel=dict(device=first)
    )
    whole = new_run("whole", train=STEPS | dict(lr_scheduler_type="constant_with_warmup"))
    whole.train(ranks)
    run.train(ranks)
    run.train(ranks, "--set", f"parallel.device={then}", "--set", "train.max_steps=12")
    assert run.losses() == pytest.approx(whole.losses(), rel=FLOAT32_LOSS)
