"""What `rankwise plan` prints for GPUs, on a machine that needs none: a Llama 3.1 8B known by its config.json alone."""

import re

import pytest
import transformers

from program import run
from runs import Run

LLAMA_8B = dict(
    architectures=["LlamaForCausalLM"],
    vocab_size=128256,
    hidden_size=4096,
    intermediate_size=14336,
    num_hidden_layers=32,
    num_attention_heads=32,
    num_key_value_heads=8,
    tie_word_embeddings=False,
    dtype="bfloat16",
)
WHOLE_BASE = 2 * 8_030_261_248  # bytes in bfloat16


@pytest.fixture
def recipe(tiny, tmp_path):
    model = tmp_path / "8b"
    transformers.LlamaConfig(**LLAMA_8B).save_pretrained(model)
    settings = tiny.settings(model=dict(path=str(model), dtype="auto"), parallel=dict(base="auto"))
    settings["data"]["max_length"] = 2048
    settings["train"]["per_device_train_batch_size"] = 4
    return Run(tmp_path / "plan", settings)


def plan(recipe, *arguments, **options):
    return run(recipe.directory, 0, "plan", recipe.config, *arguments, **options)


def mebibytes(text, kind):
    return float(re.search(rf"^  {kind} +([\d.]+) MiB", text, re.MULTILINE)[1])


def test_a_gpu_with_room_keeps_everything(recipe):
    text = plan(recipe, "--ranks", 8, "--device", "cuda", "--device-gib", 80)
    assert text.startswith("plan: base replicate over 1 rank(s) of 8, activations save, prefetch 2\n")
    assert "does not fit" not in text
    assert mebibytes(text, "base_shard") == pytest.approx(WHOLE_BASE / 2**20, rel=1e-3)
    assert re.search(r"^  total .* of +81408\.0 MiB available$", text, re.MULTILINE)  # less the driver's context
    assert re.search(r"^  libraries +1280\.0 MiB beside it, together ", text, re.MULTILINE)


def test_a_base_in_four_bits_is_named_and_is_a_quarter(recipe):
    plain = plan(recipe, "--ranks", 1, "--device-gib", 80)
    text = plan(recipe, "--ranks", 1, "--device-gib", 80, "--set", "model.base_dtype=nf4")
    assert text.startswith("plan: base replicate in nf4 over 1 rank(s) of 1, ")
    blocks = 2 * (8_030_261_248 - 2 * 128256 * 4096) / 2**20  # without embedding and head; norms are below 0.1 %
    saved = mebibytes(plain, "base_shard") - mebibytes(text, "base_shard")
    assert saved == pytest.approx(blocks * (1 - 8464 / (2 * 16384)), rel=1e-3)


def test_a_smaller_one_shards_and_says_why_and_fills_what_is_left(recipe):
    text = plan(recipe, "--ranks", 8, "--device-gib", 38)
    first, why, *_ = text.splitlines()
    resident = re.fullmatch(r"plan: base shard over 8 .* activations save, prefetch 2, resident ([\d.]+) GiB", first)
    assert resident and float(resident[1]) > 1
    assert re.fullmatch(r"  replicate, save does not fit: needs [\d.]+ GiB of 37\.5 GiB", why)
    assert mebibytes(text, "total") + mebibytes(text, "libraries") <= 37.5 * 1024


def test_resident_units_are_gathered_less(recipe):
    def received(*overrides):
        text = plan(recipe, "--ranks", 8, "--device-gib", 38, "--set", "parallel.base=shard", *overrides)
        return float(re.search(r"received a micro-batch +([\d.]+) MiB", text)[1])

    assert received() < 0.9 * received("--set", "parallel.resident_gib=0")


def test_gpus_of_unknown_memory_are_refused(recipe):
    message = "parallel.device is cuda: give --device-gib, the memory of one GPU"
    assert message in plan(recipe, "--device", "cuda", expect=64)
    assert message in plan(recipe, "--set", "parallel.device=cuda", expect=64)
    assert "--device-gib 80 and --device cpu" in plan(recipe, "--device", "cpu", "--device-gib", 80, expect=64)


def test_cpus_are_planned_as_before(recipe):
    text = plan(recipe, "--ranks", 2, "--memory-gib", 1000)
    assert "libraries" not in text and "resident" not in text
