"""The fused path of the MLP beside the composed one: both in bfloat16, their errors measured from float64.

Decoders of drawn shapes, packed and dense, with and without dropout, under each activation policy. The composed path is
had by an adapter that is the same with a larger rank: the rows and columns that it has more are zeros.
"""

import json
import random

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

from comparison import TOLERANCE, assert_as_near, flat, gradients, loss_error, relative, run_ours
from tiny_models import make_adapter, make_samples

SEED = random.SystemRandom().randrange(2**31)
POLICIES = ["save", "recompute_mlp", "recompute_block"]
DRAWS = 18
COMPOSED_RANK = 24  # which no fused kernel has


def draw_model(directory, draw):
    """Saves a random Llama, Qwen2 or Qwen3."""
    kv_heads, per_key, head = draw.choice([1, 2, 4]), draw.choice([1, 2, 3]), draw.choice([32, 64, 128])
    config, model = draw.choice(
        [
            (transformers.LlamaConfig, transformers.LlamaForCausalLM),
            (transformers.Qwen2Config, transformers.Qwen2ForCausalLM),
            (transformers.Qwen3Config, transformers.Qwen3ForCausalLM),
        ]
    )
    heads = kv_heads * per_key
    shape = dict(
        vocab_size=320,
        hidden_size=heads * head,
        intermediate_size=32 * draw.randrange(1, 40),
        num_hidden_layers=draw.randrange(1, 4),
        num_attention_heads=heads,
        num_key_value_heads=kv_heads,
        head_dim=head,
        max_position_embeddings=512,
        initializer_range=draw.choice([0.02, 0.1]),
    )
    torch.manual_seed(draw.randrange(2**31))
    model(config(**shape)).to(torch.bfloat16).save_pretrained(directory)
    return directory, shape


def widened(adapter, directory):
    """The same function with COMPOSED_RANK."""
    directory.mkdir()
    config = json.loads((adapter / "adapter_config.json").read_text())
    more = COMPOSED_RANK - config["r"]
    config |= dict(r=COMPOSED_RANK, lora_alpha=config["lora_alpha"] / config["r"] * COMPOSED_RANK)
    (directory / "adapter_config.json").write_text(json.dumps(config))
    tensors = load_file(adapter / "adapter_model.safetensors")
    padding = {"lora_A": (0, 0, 0, more), "lora_B": (0, more)}
    wide = {key: torch.nn.functional.pad(t, padding[key.split(".")[-2]]) for key, t in tensors.items()}
    save_file(wide, directory / "adapter_model.safetensors")
    return directory


def errors(result, truth, rank):
    """As comparison.gradient_errors has them, of the ranks that are not padding."""
    keys = gradients(truth)
    kept = {key: result[key][:rank] if "lora_A" in key else result[key][:, :rank] for key in keys}
    return relative(flat(kept, keys), flat(truth, keys)), relative(result["dembedding"], truth["dembedding"])


def errors_of_draw(directory, draw, policy):
    model, shape = draw_model(directory / "model", draw)
    rank = draw.choice([8, 16])
    adapter = make_adapter(directory / "adapter", model, draw.randrange(2**31), r=rank, lora_alpha=draw.choice([8, 32]))
    samples = make_samples(draw.randrange(1, 7), 320, draw.randrange(2**31), longest=300)
    if dense := draw.random() < 0.5:
        length = min(len(sample["ids"]) for sample in samples)
        samples = [{name: values[:length] for name, values in sample.items()} for sample in samples]
    for sample in samples:
        sample["loss"][-1] = True  # a prompt may be longer than what is left
    options = dict(dropout=draw.choice([0, 0.2]), seed=draw.randrange(1000), policy=policy, logits=False)
    print(f"{shape}, rank {rank}, dense {dense}, {options}")
    truth = run_ours(directory, model, adapter, samples, dtype="float64", device="cpu", **options)
    fused = run_ours(directory, model, adapter, samples, dtype="bfloat16", device="cuda", **options)
    wide = widened(adapter, directory / "wide")
    composed = run_ours(directory, model, wide, samples, dtype="bfloat16", device="cuda", **options)
    assert loss_error(fused, truth) < TOLERANCE["bfloat16"]["loss"]
    return errors(fused, truth, rank), errors(composed, truth, rank)


@pytest.fixture(scope="module")
def all_errors(tmp_path_factory):
    print(f"seed {SEED}")
    draw = random.Random(SEED)
    return [errors_of_draw(tmp_path_factory.mktemp("draw"), draw, POLICIES[k % 3]) for k in range(DRAWS)]


@pytest.mark.parametrize("what", ["gradient", "dX"])
def test_gradients_are_as_near_to_the_truth_as_composed_ones(all_errors, what):
    composed = assert_as_near(all_errors, what, "composed")
    assert composed > 1e-3, "nothing was computed in bfloat16"
    assert all(ours != theirs for ours, theirs in all_errors), "both took the same path"
