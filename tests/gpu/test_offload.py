"""Inputs of blocks that lie in host memory are the same numbers: equal bits beside those that stay on the device."""

import pytest
import torch

import tiny_models
from comparison import run_ours
from tiny_models import make_adapter, make_model, make_samples

SEED = 20261127
LAYERS = 7  # two inputs stay on the device
# A row a micro-batch, so that the pinned memory serves batches of several sizes.
COMMON = dict(device="cuda", deterministic=True, dropout=0.1, steps=5, samples_per_batch=1, logits=False)


@pytest.fixture(scope="module")
def case(tmp_path_factory):
    directory = tmp_path_factory.mktemp("offload")
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(tiny_models.COMMON, "num_hidden_layers", LAYERS)
        model = make_model(directory / "model", "qwen3", SEED)
    adapter = make_adapter(directory / "adapter", model, SEED + 1)
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
