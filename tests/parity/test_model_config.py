"""What we read out of a config.json against transformers' own config classes."""

import json
import os
import pathlib
import subprocess

import pytest
from transformers import AutoConfig, LlamaConfig, MistralConfig, Qwen2Config, Qwen3Config

ROOT = pathlib.Path(__file__).resolve().parents[2]
TOOL = (
    pathlib.Path(os.environ.get("RANKWISE_BUILD", ROOT / "build" / "release"))
    / "tests"
    / "support"
    / "model_config_tool"
)
pytestmark = pytest.mark.skipif(not TOOL.exists(), reason=f"{TOOL} is not built")

ARCHITECTURES = {
    "llama": "LlamaForCausalLM",
    "mistral": "MistralForCausalLM",
    "qwen2": "Qwen2ForCausalLM",
    "qwen3": "Qwen3ForCausalLM",
}
SMALL = {
    "vocab_size": 1000,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 4,
    "num_attention_heads": 8,
    "num_key_value_heads": 2,
    "eos_token_id": [3, 4],
    "bos_token_id": 1,
    "pad_token_id": 0,
}
LLAMA3 = {
    "rope_type": "llama3",
    "factor": 32.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 1024,
}
TWO_KINDS = ["full_attention", "sliding_attention"] * 2
ABSENT = object()

# Files as they are found: (model_type, fields beside or instead of SMALL).
CASES = {
    "llama": ("llama", {}),
    "llama, all heads": ("llama", {"num_key_value_heads": ABSENT}),
    "llama, version 4 rope": ("llama", {"rope_theta": 5e5, "rope_scaling": LLAMA3}),
    "llama, version 5 rope": ("llama", {"rope_parameters": {"rope_theta": 5e5, **LLAMA3}}),
    "llama, rope without its old length": (
        "llama",
        {
            "rope_scaling": {k: v for k, v in LLAMA3.items() if k != "original_max_position_embeddings"},
            "max_position_embeddings": 512,
        },
    ),
    "llama, linear rope": ("llama", {"rope_scaling": {"type": "linear", "factor": 4.0}}),
    "llama, default rope spelt out": ("llama", {"rope_theta": 1e5, "rope_scaling": None}),
    "llama, biases": ("llama", {"attention_bias": True, "mlp_bias": True}),
    "llama, own head size": ("llama", {"head_dim": 32}),
    "llama, one end id": ("llama", {"eos_token_id": 5, "pad_token_id": None}),
    "llama, token defaults": ("llama", {"eos_token_id": ABSENT, "bos_token_id": ABSENT, "pad_token_id": ABSENT}),
    "llama, bf16": ("llama", {"torch_dtype": "bfloat16"}),
    "mistral": ("mistral", {"head_dim": 16, "dtype": "float16"}),
    "mistral, no window": ("mistral", {"sliding_window": None}),
    "mistral, window": ("mistral", {"sliding_window": 16}),
    "mistral, head defaults": ("mistral", {"num_key_value_heads": ABSENT}),
    "qwen2": ("qwen2", {"tie_word_embeddings": True, "rope_theta": 1e6}),
    "qwen2, window unused": ("qwen2", {"use_sliding_window": False, "sliding_window": 16, "max_window_layers": 1}),
    "qwen2, window": ("qwen2", {"use_sliding_window": True, "sliding_window": 16, "max_window_layers": 1}),
    "qwen2, window default": ("qwen2", {"use_sliding_window": True, "max_window_layers": 0}),
    "qwen2, null heads": ("qwen2", {"num_key_value_heads": None}),
    "qwen3": ("qwen3", {"rms_norm_eps": 1e-5}),
    "qwen3, own head size": ("qwen3", {"head_dim": 16, "attention_bias": True}),
    "qwen3, listed layers": ("qwen3", {"use_sliding_window": True, "sliding_window": 16, "layer_types": TWO_KINDS}),
}


def read_with_ours(directory):
    result = subprocess.run([TOOL, directory], capture_output=True, text=True, timeout=60)
    assert result.returncode == 0, result.stderr
    return json.loads(result.stdout)


def as_list(ids):
    return [] if ids is None else ids if isinstance(ids, list) else [ids]


def compare(directory):
    ours, theirs = read_with_ours(directory), AutoConfig.from_pretrained(directory)
    for key in (
        "vocab_size",
        "hidden_size",
        "intermediate_size",
        "num_hidden_layers",
        "num_attention_heads",
        "num_key_value_heads",
        "max_position_embeddings",
        "rms_norm_eps",
        "tie_word_embeddings",
        "bos_token_id",
        "pad_token_id",
    ):
        assert ours[key] == getattr(theirs, key), key
    assert ours["eos_token_ids"] == as_list(theirs.eos_token_id)
    head_dim = getattr(theirs, "head_dim", None) or theirs.hidden_size // theirs.num_attention_heads
    assert ours["head_dim"] == head_dim
    assert ours["dtype"] == {"float16": "F16", "bfloat16": "BF16"}.get(str(theirs.dtype).removeprefix("torch."), "F32")
    compare_rope(ours, theirs.rope_parameters)
    compare_windows(ours, theirs)


def compare_rope(ours, rope):
    assert ours["rope_theta"] == rope["rope_theta"]
    kind = rope["rope_type"]
    assert ours["linear_rope_factor"] == (rope["factor"] if kind == "linear" else None)
    keys = ("factor", "low_freq_factor", "high_freq_factor", "original_max_position_embeddings")
    assert ours.get("llama3") == ([rope[key] for key in keys] if kind == "llama3" else None)


def compare_windows(ours, theirs):
    window = None if theirs.model_type == "llama" else theirs.sliding_window
    layers = [window is not None] * theirs.num_hidden_layers
    if theirs.model_type.startswith("qwen"):
        layers = [kind == "sliding_attention" for kind in theirs.layer_types]
    assert ours["layer_is_sliding"] == layers
    assert ours["sliding_window"] == (window if any(layers) else None)


@pytest.mark.parametrize("case", CASES)
def test_a_file_means_the_same_to_both(tmp_path, case):
    model_type, fields = CASES[case]
    content = {"model_type": model_type, "architectures": [ARCHITECTURES[model_type]], **SMALL, **fields}
    content = {key: value for key, value in content.items() if value is not ABSENT}
    (tmp_path / "config.json").write_text(json.dumps(content))
    compare(tmp_path)


@pytest.mark.parametrize("config_class", [LlamaConfig, MistralConfig, Qwen2Config, Qwen3Config])
def test_what_transformers_saves_can_be_read(tmp_path, config_class):
    config_class(**SMALL, architectures=[ARCHITECTURES[config_class.model_type]]).save_pretrained(tmp_path)
    compare(tmp_path)


@pytest.mark.parametrize("model_type", ARCHITECTURES)
@pytest.mark.parametrize("bias", [False, True])
def test_biases_are_those_of_the_real_model(tmp_path, model_type, bias):
    from transformers import AutoModelForCausalLM

    content = {
        "model_type": model_type,
        "architectures": [ARCHITECTURES[model_type]],
        **SMALL,
        "attention_bias": bias,
        "mlp_bias": bias,
    }
    (tmp_path / "config.json").write_text(json.dumps(content))
    ours = read_with_ours(tmp_path)
    layer = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(tmp_path)).model.layers[0]
    assert ours["attention_bias"] == (layer.self_attn.q_proj.bias is not None)
    assert ours["attention_output_bias"] == (layer.self_attn.o_proj.bias is not None)
    assert ours["mlp_bias"] == (layer.mlp.gate_proj.bias is not None)
    assert ours["qk_norm"] == hasattr(layer.self_attn, "q_norm")
    assert ours["head_dim"] * ours["num_attention_heads"] == layer.self_attn.q_proj.out_features
