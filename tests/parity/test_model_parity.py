"""Our forward, backward and optimizer against PEFT and transformers on the same weights, adapter and batch."""

import pytest
import torch
from safetensors.torch import load_file

from ranks import BUILD, run_ranks
from tiny_models import FAMILIES, load_peft, make_adapter, make_model, make_samples, train_peft, write_request

SEED = 20261122
STEPS = 20
LEARNING_RATE = 1e-3
# The table of docs/design.md: gradients and dX as relative norm a tensor, losses relative, final tensors. In float32 the
# last is the distance of (final - initial) over the whole adapter, as Adam turns near-zero gradients into full steps.
TOLERANCE = {
    "float64": dict(gradient=1e-12, loss=1e-10, final=1e-7),
    "float32": dict(gradient=1e-5, loss=1e-5, final=1e-3),
}


@pytest.fixture(scope="module", params=FAMILIES)
def case(request, tmp_path_factory):
    print(f"seed {SEED}")
    directory = tmp_path_factory.mktemp(request.param)
    model = make_model(directory / "model", request.param, SEED)
    adapter = make_adapter(directory / "adapter", model, SEED + 1)
    return directory, model, adapter, make_samples(6, 320, SEED + 2)


def ours(case, ranks=1, **options):
    directory, model, adapter, samples = case
    request = write_request(
        directory / "request.json", model, adapter, samples, steps=STEPS, learning_rate=LEARNING_RATE, **options
    )
    run_ranks(ranks, BUILD / "tests/support/parity_tool", request, directory / "out.safetensors")
    result = load_file(directory / "out.safetensors")
    (directory / "out.safetensors").unlink()
    return result


def relative(ours_tensor, theirs):
    theirs = theirs.double()
    return float((ours_tensor - theirs).norm() / theirs.norm().clamp_min(1e-300))


def assert_same(mine, theirs, initial, tolerance, with_logits=True):
    worst = max((relative(mine[k], theirs[k]), k) for k in theirs if k.startswith("grad.") or k == "dembedding")
    assert worst[0] < tolerance["gradient"], worst
    if with_logits:
        assert relative(mine["logits"], theirs["logits"]) < tolerance["gradient"]
    losses = torch.as_tensor(theirs["losses"], dtype=torch.float64)
    assert float(((mine["losses"] - losses) / losses).abs().max()) < tolerance["loss"]
    assert losses[-1] < losses[0], "nothing was learned, so nothing was compared"
    keys = sorted(k for k in theirs if k.startswith("final."))

    def flat(tensors):
        return torch.cat([tensors[k].double().flatten() for k in keys])

    start = torch.cat([initial[k.removeprefix("final.")].double().flatten() for k in keys])
    assert relative(flat(mine) - start, flat(theirs) - start) < tolerance["final"]


@pytest.mark.parametrize("dtype", TOLERANCE)
def test_same_as_peft(case, dtype):
    directory, model_dir, adapter_dir, samples = case
    theirs = train_peft(load_peft(model_dir, adapter_dir, getattr(torch, dtype)), samples, STEPS, LEARNING_RATE)
    initial = load_file(adapter_dir / "adapter_model.safetensors")
    assert_same(ours(case, dtype=dtype), theirs, initial, TOLERANCE[dtype])


@pytest.mark.parametrize(
    "options",
    [
        dict(policy="recompute_mlp"),
        dict(policy="recompute_block"),
        dict(samples_per_batch=1),
        dict(samples_per_batch=4),
        dict(ranks=2, samples_per_batch=1),
        dict(ranks=2, samples_per_batch=1, shard=True),
        dict(ranks=4, samples_per_batch=2, shard=True, prefetch=0),
        dict(ranks=4, samples_per_batch=2, shard=True, prefetch=5),
    ],
    ids=lambda o: "-".join(f"{k}={v}" for k, v in o.items()),
)
def test_layout_does_not_change_the_numbers(case, options):
    if "llama" not in str(case[1]) and options.get("ranks", 1) > 1:
        pytest.skip("sharding is the same code for every family: tried on the Llama shapes")
    directory, model_dir, adapter_dir, samples = case
    plain, other = ours(case, dtype="float64"), ours(case, dtype="float64", **options)
    initial = load_file(adapter_dir / "adapter_model.safetensors")
    alone = options.get("ranks", 1) == 1 and "samples_per_batch" not in options
    if not alone:  # the embedding's gradient is of one batch of one rank
        other["dembedding"] = plain["dembedding"]
    assert_same(other, plain | {"losses": plain["losses"].tolist()}, initial, TOLERANCE["float64"], with_logits=alone)
