"""Our forward, backward and optimizer against PEFT and transformers on the same weights, adapter and batch."""

import pytest
import torch
from safetensors.torch import load_file

from comparison import TOLERANCE, assert_same, run_ours
from tiny_models import FAMILIES, load_peft, make_adapter, make_model, make_samples, train_peft, use_masks

SEED = 20261122
STEPS = 20
LEARNING_RATE = 1e-3
DROPOUT = 0.3


@pytest.fixture(scope="module", params=FAMILIES)
def case(request, tmp_path_factory):
    print(f"seed {SEED}")
    directory = tmp_path_factory.mktemp(request.param)
    model = make_model(directory / "model", request.param, SEED)
    adapter = make_adapter(directory / "adapter", model, SEED + 1)
    return directory, model, adapter, make_samples(6, 320, SEED + 2)


def ours(case, **options):
    return run_ours(*case, steps=STEPS, learning_rate=LEARNING_RATE, **options)


@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_same_as_peft(case, dtype):
    directory, model_dir, adapter_dir, samples = case
    theirs = train_peft(load_peft(model_dir, adapter_dir, getattr(torch, dtype)), samples, STEPS, LEARNING_RATE)
    initial = load_file(adapter_dir / "adapter_model.safetensors")
    assert_same(ours(case, dtype=dtype), theirs, initial, TOLERANCE[dtype])


def test_same_as_peft_with_our_dropout_masks(case):
    """PEFT draws one mask a module, we one an input: so it is given ours."""
    directory, model_dir, adapter_dir, samples = case
    mine = ours(case, dtype="float64", dropout=DROPOUT, seed=SEED, masks=True)
    masks = {name.removeprefix("mask."): mask for name, mask in mine.items() if name.startswith("mask.")}
    assert_are_dropout_masks(masks)
    model = load_peft(model_dir, adapter_dir, torch.float64)
    theirs = train_peft(model, samples, STEPS, LEARNING_RATE, before_sample=use_masks(model, masks, samples))
    initial = load_file(adapter_dir / "adapter_model.safetensors")
    # Our logits are of no training step, and so without dropout.
    assert_same(mine, theirs, initial, TOLERANCE["float64"], with_logits=False)


def assert_are_dropout_masks(masks):
    """Zeros and 1 / (1 - p) in the right shares, and as many different masks as steps and inputs."""
    values = torch.cat([mask.flatten() for mask in masks.values()])
    assert sorted(values.unique().tolist()) == pytest.approx([0.0, 1 / (1 - DROPOUT)])
    assert float((values == 0).double().mean()) == pytest.approx(DROPOUT, abs=0.01)
    assert len(masks) == STEPS * 3 * 7
    assert len({mask.numpy().tobytes() for mask in masks.values()}) == STEPS * 3 * 4


@pytest.mark.parametrize(
    "options",
    [
        dict(policy="recompute_mlp"),
        dict(policy="recompute_block"),
        dict(policy="offload"),
        dict(samples_per_batch=1),
        dict(samples_per_batch=4),
        dict(ranks=2, samples_per_batch=1),
        dict(ranks=2, samples_per_batch=1, shard_group=2),
        dict(ranks=4, samples_per_batch=2, shard_group=4, prefetch=0),
        dict(ranks=4, samples_per_batch=2, shard_group=4, prefetch=5),
        dict(ranks=4, samples_per_batch=2, shard_group=2),
    ],
    ids=lambda o: "-".join(f"{k}={v}" for k, v in o.items()),
)
def test_layout_does_not_change_the_numbers(case, options):
    if "llama" not in str(case[1]) and options.get("ranks", 1) > 1:
        pytest.skip("sharding is the same code for every family: tried on the Llama shapes")
    directory, model_dir, adapter_dir, samples = case
    common = dict(dtype="float64", dropout=DROPOUT)
    plain, other = ours(case, **common), ours(case, **common, **options)
    initial = load_file(adapter_dir / "adapter_model.safetensors")
    alone = options.get("ranks", 1) == 1 and "samples_per_batch" not in options
    if not alone:  # the embedding's gradient is of one batch of one rank
        other["dembedding"] = plain["dembedding"]
    assert_same(other, plain, initial, TOLERANCE["float64"], with_logits=alone)
