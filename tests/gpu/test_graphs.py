"""Micro-batches that are started as CUDA graphs make the bits that those started kernel by kernel make."""

import json
import random

import pytest
import torch

from comparison import TOLERANCE, loss_error, run_ours
from program import printed_json, run
from runs import WORDS
from tiny_models import FUSED_ADAPTER, FUSED_WIDTH, make_adapter, make_model

SEED = 20261128
VOCABULARY = 320
# Tokens of the samples of each micro-batch of a step: four of one shape, one that has no shape, five of another.
MICRO_BATCHES = 4 * [[256, 256]] + [[77, 200]] + 5 * [[512, 512]]
STEPS = 3
COMMON = dict(device="cuda", dtype="bfloat16", deterministic=True, steps=STEPS, samples_per_batch=2, logits=False)
# The first step is not recorded, as it gives the embeddings' gradient. In the second: all but the first of the one
# shape; of the other, of which four in a row are wanted by then, two. In the third more are wanted than there are.
REPLAYS = 3 + 2


def samples(micro_batches=MICRO_BATCHES):
    generator = torch.Generator().manual_seed(SEED)
    lengths = [length for pair in micro_batches for length in pair]
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


def without_and_with_graphs(case, **options):
    return [run_ours(*case, **COMMON | options, cuda_graphs=graphs) for graphs in (False, True)]


def expect_equal_bits(one_by_one, graphs):
    assert one_by_one.keys() == graphs.keys()
    for name, tensor in one_by_one.items():
        assert torch.equal(tensor, graphs[name]) or name == "replays", name


@pytest.mark.parametrize("policy", ["save", "recompute_mlp", "recompute_block"])
@pytest.mark.parametrize("base_dtype", ["same", "float8", "nf4"])
def test_equal_bits(case, base_dtype, policy):
    one_by_one, graphs = without_and_with_graphs(case, base_dtype=base_dtype, policy=policy)
    assert (one_by_one["replays"], graphs["replays"]) == (0, REPLAYS)
    expect_equal_bits(one_by_one, graphs)


def test_equal_bits_where_inputs_are_dropped(case):
    one_by_one, graphs = without_and_with_graphs(case, dropout=0.1)
    assert graphs["replays"] == REPLAYS
    expect_equal_bits(one_by_one, graphs)
    assert not torch.equal(graphs["losses"], run_ours(*case, **COMMON)["losses"])


# An evaluation takes the memory of what was recorded: after it the fourth in a row is recorded again.
def test_equal_bits_with_evaluations_between(case):
    one_shape = *case[:3], samples(5 * [[256, 256]])
    one_by_one, graphs = without_and_with_graphs(one_shape, evaluate=True)
    assert graphs["replays"] == 4 + 2
    expect_equal_bits(one_by_one, graphs)
    assert graphs["evaluations"].all()


@pytest.mark.parametrize("ranks", [2])
def test_a_base_that_stays_on_two_gpus_is_recorded(case, ranks):
    options = dict(ranks=ranks, shard_group=2, resident_bytes=1 << 30)
    one_by_one, graphs = without_and_with_graphs(case, **options)
    assert graphs["replays"] > one_by_one["replays"] == 0
    expect_equal_bits(one_by_one, graphs)


# Products of 256 and more on each side are cuBLASLt's, by algorithms that were timed before anything was recorded.
def test_products_whose_algorithm_was_timed(tmp_path):
    model = make_model(
        tmp_path / "model", "llama", SEED, hidden_size=256, intermediate_size=512, num_attention_heads=4,
        num_key_value_heads=2, head_dim=64,
    )  # fmt: skip
    case = tmp_path, model, make_adapter(tmp_path / "adapter", model, SEED + 1, **FUSED_ADAPTER), samples()
    one_by_one, graphs = without_and_with_graphs(case, deterministic=False)
    assert graphs["replays"] == REPLAYS
    assert loss_error(graphs, one_by_one) < TOLERANCE["bfloat16"]["loss"]


NOTE = "micro-batches of one shape are started as CUDA graphs"


def write_long_texts(path, records=48):
    words = random.Random(SEED)
    texts = [{"text": " ".join(words.choices(WORDS, k=300))} for _ in range(records)]
    path.write_text("".join(json.dumps(record) + "\n" for record in texts))
    return [{"path": str(path), "format": "text"}]


# Evaluations and checkpoints lie between, and a part of a batch at the end of each epoch.
@pytest.mark.parametrize("ranks", [1, 2])
def test_whole_runs_end_with_equal_bits(new_run, tmp_path, ranks):
    data = dict(
        train=write_long_texts(tmp_path / "long.jsonl"), max_length=256, packing=False, over_length="truncate_right",
        eval_fraction=0.1,
    )  # fmt: skip
    train = dict(max_steps=12, global_batch_size=16, per_device_train_batch_size=2, eval_steps=4, save_steps=6)
    changes = dict(model=dict(dtype="bfloat16"), data=data, parallel=dict(base="replicate"))
    runs = [new_run(f"graphs_{on}", **changes, train=train | dict(cuda_graphs=on)) for on in (False, True)]
    assert [NOTE in run.train(ranks) for run in runs] == [False, True]
    assert runs[0].losses() == runs[1].losses()
    assert [e["eval_loss"] for e in runs[0].evaluations()] == [e["eval_loss"] for e in runs[1].evaluations()]
    assert runs[0].state_hashes() == runs[1].state_hashes()


# What grows in place is unmapped when the recording's own stream is done: the device has to be, whose replay reads it.
def test_equal_bits_where_memory_grows_in_place(case, monkeypatch):
    one_by_one = run_ours(*case, **COMMON)
    monkeypatch.setenv("PYTORCH_CUDA_ALLOC_CONF", "expandable_segments:True")
    graphs = run_ours(*case, **COMMON, cuda_graphs=True)
    assert graphs["replays"] == REPLAYS
    expect_equal_bits(one_by_one, graphs)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_what_is_not_recorded_is_said(case, dtype):
    with pytest.raises(AssertionError, match="cuda_graphs: model.dtype is not bfloat16"):
        run_ours(*case, **COMMON | dict(dtype=dtype), cuda_graphs=True)


# Samples of 256 tokens, so that they have a shape.
@pytest.mark.parametrize(
    "arguments, recorded",
    [([], True), (["--no-cuda-graphs"], False), (["--activations", "offload"], False), (["--shortest", "50"], False)],
)
def test_recorded_where_it_can_be(tmp_path, arguments, recorded):
    bench = ["bench", "--shape", "tiny", "--device", "cuda", "--sequence-length", "256", *arguments]
    assert (printed_json(run(tmp_path, 1, *bench, timeout=120))["graph_replays"] > 0) == recorded
