"""Inputs of blocks that lie in host memory are the same numbers: equal bits beside those that stay on the device."""

import pytest
import torch

from comparison import run_ours
from program import printed_json, run
from tiny_models import FUSED_ADAPTER, FUSED_WIDTH, make_adapter, make_model, make_samples

SEED = 20261127
LAYERS = 7  # two inputs stay on the device
# A row a micro-batch, so that the pinned memory serves batches of several sizes.
COMMON = dict(device="cuda", deterministic=True, dropout=0.1, steps=5, samples_per_batch=1, logits=False)


@pytest.fixture(scope="module")
def case(tmp_path_factory):
    directory = tmp_path_factory.mktemp("offload")
    shape = dict(num_hidden_layers=LAYERS, intermediate_size=FUSED_WIDTH)
    model = make_model(directory / "model", "qwen3", SEED, **shape)
    adapter = make_adapter(directory / "adapter", model, SEED + 1, **FUSED_ADAPTER)
    return directory, model, adapter, make_samples(9, 320, SEED + 2, longest=200)


@pytest.mark.parametrize(
    "ranks, options",
    [
        (1, dict(dtype="float32")),
        (1, dict(dtype="bfloat16")),
        (1, dict(dtype="bfloat16", base_dtype="nf4")),
        (1, dict(dtype="bfloat16", cpu_offload=True)),
        (2, dict(dtype="bfloat16", shard_group=2)),
    ],
    ids=lambda value: "-".join(f"{k}={v}" for k, v in value.items()) if isinstance(value, dict) else str(value),
)
def test_equal_bits(case, ranks, options):
    kept, offloaded = (
        run_ours(*case, ranks=ranks, **COMMON, **options, policy=policy) for policy in ("recompute_block", "offload")
    )
    assert kept.keys() == offloaded.keys()
    for name, tensor in kept.items():
        assert torch.equal(tensor, offloaded[name]), name


def test_all_inputs_but_two_leave_the_device(tmp_path):
    layers, batch, length, hidden = 6, 4, 64, 256
    sizes = ["--shape", "tiny", "--layers", layers, "--micro-batch", batch, "--sequence-length", length]
    kept, offloaded = (
        printed_json(
            run(tmp_path, 1, "bench", *sizes, "--steps", 2, "--warm-up", 1, "--activations", policy, timeout=120)
        )["turn_activation_bytes"]
        for policy in ("recompute_block", "offload")
    )
    assert kept - offloaded == (layers - 2) * batch * length * hidden * 2
