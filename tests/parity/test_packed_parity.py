"""A packed base against PEFT over the weights that come back from it: NF4 as bitsandbytes makes it, float8 as torch."""

import pytest
import torch
import transformers
from safetensors.torch import load_file

from comparison import TOLERANCE, assert_same, run_ours
from packed_formats import FORMATS, linear_weights, save_packed
from tiny_models import load_peft, make_adapter, make_model, make_samples, train_peft

SEED = 20261126
STEPS = 20
LEARNING_RATE = 1e-3


@pytest.fixture(
    scope="module", params=[(f, d) for d in FORMATS for f in ("llama", "llama_bias", "qwen3")], ids="-".join
)
def case(request, tmp_path_factory):
    print(f"seed {SEED}")
    family, base_dtype = request.param
    directory = tmp_path_factory.mktemp(family)
    model = make_model(directory / "model", family, SEED)
    adapter = make_adapter(directory / "adapter", model, SEED + 1)
    base = transformers.AutoModelForCausalLM.from_pretrained(model)
    save_packed(directory / "quantised", base, base_dtype)
    return (directory, model, adapter, make_samples(6, 320, SEED + 2)), base_dtype


def ours(case, **options):
    files, base_dtype = case
    return run_ours(*files, steps=STEPS, learning_rate=LEARNING_RATE, base_dtype=base_dtype, **options)


@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_same_as_peft_over_what_comes_back(case, dtype):
    directory, _, adapter_dir, samples = case[0]
    peft = load_peft(directory / "quantised", adapter_dir, getattr(torch, dtype))
    theirs = train_peft(peft, samples, STEPS, LEARNING_RATE)
    initial = load_file(adapter_dir / "adapter_model.safetensors")
    assert_same(ours(case, dtype=dtype), theirs, initial, TOLERANCE[dtype])


@pytest.mark.parametrize("base_dtype", FORMATS)
@pytest.mark.parametrize("stored", [torch.float32, torch.bfloat16, torch.float16], ids=str)
def test_every_bit_of_a_weight(tmp_path, stored, base_dtype):
    """Shapes of part spans, and of several: 264 x 352 numbers are 5.7 of 16,384."""
    torch.manual_seed(SEED)
    config = transformers.LlamaConfig(
        vocab_size=64, hidden_size=264, intermediate_size=352, num_hidden_layers=2, num_attention_heads=4, head_dim=66
    )
    model = transformers.AutoModelForCausalLM.from_config(config)
    weights = {n: w.detach() for n, w in linear_weights(model).items()}
    weights["model.layers.0.mlp.up_proj.weight"][:100].zero_()  # blocks without anything
    weights["model.layers.1.mlp.up_proj.weight"].exponential_()
    model.to(stored).save_pretrained(tmp_path / "model")
    adapter = make_adapter(tmp_path / "adapter", tmp_path / "model", SEED)
    names = list(weights)
    for ranks in (1, 3):
        result = run_ours(
            tmp_path,
            tmp_path / "model",
            adapter,
            make_samples(3, 64, SEED),
            ranks=ranks,
            shard_group=ranks,
            samples_per_batch=1,
            base_dtype=base_dtype,
            weights=names,
        )
        for name in names:
            expected = FORMATS[base_dtype](weights[name].to(stored)).double()
            assert torch.equal(result[f"weight.{name}"], expected), (name, ranks)


@pytest.mark.parametrize(
    "options",
    [dict(policy="recompute_block"), dict(ranks=2, samples_per_batch=1, shard_group=2), dict(ranks=2, shard_group=1)],
    ids=lambda o: "-".join(f"{k}={v}" for k, v in o.items()),
)
def test_layout_does_not_change_the_numbers(case, options):
    *_, adapter_dir, _ = case[0]
    plain, other = ours(case, dtype="float64"), ours(case, dtype="float64", **options)
    initial = load_file(adapter_dir / "adapter_model.safetensors")
    alone = options.get("ranks", 1) == 1
    if not alone:  # the embedding's gradient is of one batch of one rank
        other["dembedding"] = plain["dembedding"]
    assert_same(other, plain, initial, TOLERANCE["float64"], with_logits=alone)
