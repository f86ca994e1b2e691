"""Micro-batches that are started as CUDA graphs make the bits that those started kernel by kernel make."""

import pytest
import torch

from comparison import TOLERANCE, loss_error, run_ours
from program import run
from tiny_models import FUSED_ADAPTER, FUSED_WIDTH, make_adapter, make_model

SEED = 20261128
VOCABULARY = 320
# Tokens of the samples of a micro-batch: two are of one shape, one has no shape twice, one is in a shape of its own.
MICRO_BATCHES = [[256, 256], [256, 256], [77, 200], [512, 512]]
STEPS = 5
COMMON = dict(device="cuda", deterministic=True, steps=STEPS, samples_per_batch=2, logits=False)
# The first step is not recorded, as it gives the embeddings' gradient. In the second: the second of the one shape. Then
# both of them, and the other shape's from its second time on.
REPLAYS = 1 + 3 * (STEPS - 2)


def samples():
    generator = torch.Generator().manual_seed(SEED)
    lengths = [length for pair in MICRO_BATCHES for length in pair]
    return [
        {"ids": torch.randint(0, VOCABULARY, (length,), generator=generator).tolist(), "loss": [True] * length}
        for length in lengths
    ]


@pytest.fixture(scope="module")
def case(tmp_path_factory):
    directory = tmp_path_factory.mktemp("graphs")
    model = make_model(directory / "model", "qwen3", SEED, intermediate_size=FUSED_WIDTH)
    adapter = make_adapter(directory / "adapter", model, SEED + 1, **FUSED_ADAPTER)
    return directory, model, adapter, samples()


@pytest.mark.parametrize("policy", ["save", "recompute_mlp", "recompute_block"])
@pytest.mark.parametrize(
    "dtype, base_dtype", [("float32", "same"), ("bfloat16", "same"), ("bfloat16", "float8"), ("bfloat16", "nf4")]
)
def test_equal_bits(case, dtype, base_dtype, policy):
    options = dict(dtype=dtype, base_dtype=base_dtype, policy=policy)
    one_by_one, graphs = (run_ours(*case, **COMMON, **options, cuda_graphs=recorded) for recorded in (False, True))
    assert graphs.pop("replays") == REPLAYS
    assert one_by_one.pop("replays") == 0
    assert graphs.keys() == one_by_one.keys()
    for name, tensor in one_by_one.items():
        assert torch.equal(tensor, graphs[name]), name


@pytest.mark.parametrize("ranks", [2])
def test_a_base_that_stays_on_two_gpus_is_recorded(case, ranks):
    options = dict(ranks=ranks, dtype="bfloat16", shard_group=2, resident_bytes=1 << 30)
    one_by_one, graphs = (run_ours(*case, **COMMON, **options, cuda_graphs=recorded) for recorded in (False, True))
    assert graphs.pop("replays") > one_by_one.pop("replays") == 0
    for name, tensor in one_by_one.items():
        assert torch.equal(tensor, graphs[name]), name


# Products of 256 and more on each side are cuBLASLt's, by algorithms that were timed before anything was recorded.
def test_products_whose_algorithm_was_timed(tmp_path):
    shape = dict(hidden_size=256, intermediate_size=512)
    model = make_model(tmp_path / "model", "llama", SEED, **shape)
    case = tmp_path, model, make_adapter(tmp_path / "adapter", model, SEED + 1, **FUSED_ADAPTER), samples()
    options = COMMON | dict(dtype="bfloat16", deterministic=False)
    one_by_one, graphs = (run_ours(*case, **options, cuda_graphs=recorded) for recorded in (False, True))
    assert graphs["replays"] == REPLAYS
    assert loss_error(graphs, one_by_one) < TOLERANCE["bfloat16"]["loss"]


def test_what_stands_in_the_way_is_said(tmp_path):
    offload = ["bench", "--shape", "tiny", "--device", "cuda", "--activations", "offload", "--cuda-graphs"]
    assert "--cuda-graphs: activations pass to the host and back" in run(tmp_path, 1, *offload, expect=64, timeout=120)
