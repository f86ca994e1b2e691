#!/usr/bin/env python3
"""Turn a Llama-family GGUF file into a Hugging Face model folder that `rankwise` reads.

Weights become bfloat16 whatever their quantisation was. One tensor (of a large one, a slice of rows) is in memory at
a time. The folder is built beside its destination and renamed when it is complete and checked, so it is whole or absent.
"""

import hashlib
import json
import re
import struct
import sys
from pathlib import Path

import numpy as np
from gguf import GGUFReader
from gguf.quants import dequantize

from support import BadData, CannotWrite, NoInput, durable_file, parser, run, whole_folder

SLICE_ELEMENTS = 1 << 22  # float32 numbers unpacked at once: 16 MiB
CONTROL_TOKEN = 3  # GGUF's token type of <|im_start|> and its like

MODEL_TENSORS = {"token_embd": "model.embed_tokens", "output_norm": "model.norm", "output": "lm_head"}
LAYER_TENSORS = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}

BYTE_LEVEL = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
DIGITS = {"type": "Digits", "individual_digits": True}
PRE_TOKENIZERS = {
    "gpt-2": BYTE_LEVEL,
    "smollm": {"type": "Sequence", "pretokenizers": [DIGITS, BYTE_LEVEL]},
}


class Gguf:
    """An opened GGUF file whose missing keys are errors with a place."""

    def __init__(self, path):
        self.path = path
        if not path.is_file():
            raise NoInput(f"{path}: no such file")
        try:
            self.reader = GGUFReader(path)
        except Exception as error:  # the library reports a damaged file by whatever numpy raised
            raise BadData(f"{path}: not a readable GGUF file ({error}); download it again") from error

    def get(self, key, default=None):
        field = self.reader.fields.get(key)
        return default if field is None else field.contents()

    def need(self, key):
        value = self.get(key)
        if value is None:
            raise BadData(f"{self.path}: {key} is missing; this file does not describe a whole model")
        return value

    def choice(self, key, known):
        value = self.need(key)
        if value not in known:
            raise BadData(f"{self.path}: {key} is {value!r}; this tool knows {', '.join(sorted(known))}")
        return value


def shortest(value):
    """1e-05 out of 9.99999974e-06: GGUF keeps a float32 of what was a decimal number."""
    return float(f"{value:.6g}")


def special_ids(gguf):
    eos = gguf.need("tokenizer.ggml.eos_token_id")
    return {
        "bos": gguf.need("tokenizer.ggml.bos_token_id"),
        "eos": eos,
        "pad": gguf.get("tokenizer.ggml.padding_token_id", eos),
        "unk": gguf.get("tokenizer.ggml.unknown_token_id", eos),
    }


def model_config(gguf, tied):
    gguf.choice("general.architecture", {"llama"})
    if gguf.get("llama.rope.scaling.type", "none") != "none":
        raise BadData(f"{gguf.path}: llama.rope.scaling.type is set; scaled rotary positions are not read")
    ids = special_ids(gguf)
    heads = gguf.need("llama.attention.head_count")
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "hidden_size": gguf.need("llama.embedding_length"),
        "hidden_act": "silu",
        "intermediate_size": gguf.need("llama.feed_forward_length"),
        "num_hidden_layers": gguf.need("llama.block_count"),
        "num_attention_heads": heads,
        "num_key_value_heads": gguf.get("llama.attention.head_count_kv", heads),
        "max_position_embeddings": gguf.need("llama.context_length"),
        "rms_norm_eps": shortest(gguf.need("llama.attention.layer_norm_rms_epsilon")),
        "vocab_size": len(gguf.need("tokenizer.ggml.tokens")),
        "rope_theta": shortest(gguf.get("llama.rope.freq_base", 10000.0)),
        "rope_scaling": None,
        "attention_bias": False,
        "mlp_bias": False,
        "attention_dropout": 0.0,
        "tie_word_embeddings": tied,
        "bos_token_id": ids["bos"],
        "eos_token_id": ids["eos"],
        "pad_token_id": ids["pad"],
        "initializer_range": 0.02,
        "torch_dtype": "bfloat16",
        "use_cache": True,
    }


def tokenizer(gguf):
    gguf.choice("tokenizer.ggml.model", {"gpt2"})
    vocabulary = gguf.need("tokenizer.ggml.tokens")
    kinds = gguf.need("tokenizer.ggml.token_type")
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [
            {"id": i, "content": vocabulary[i], **flags} for i, kind in enumerate(kinds) if kind == CONTROL_TOKEN
        ],
        "normalizer": None,
        "post_processor": None,
        "pre_tokenizer": PRE_TOKENIZERS[gguf.choice("tokenizer.ggml.pre", PRE_TOKENIZERS)],
        "decoder": {**BYTE_LEVEL, "add_prefix_space": True},
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": None,
            "continuing_subword_prefix": None,
            "end_of_word_suffix": None,
            "fuse_unk": False,
            "byte_fallback": False,
            "vocab": {token: i for i, token in enumerate(vocabulary)},
            "merges": gguf.need("tokenizer.ggml.merges"),
        },
    }


def tokenizer_config(gguf):
    vocabulary = gguf.need("tokenizer.ggml.tokens")
    return {
        "tokenizer_class": "PreTrainedTokenizerFast",
        **{f"{role}_token": vocabulary[i] for role, i in special_ids(gguf).items()},
        "model_max_length": gguf.need("llama.context_length"),
        "clean_up_tokenization_spaces": False,
        "chat_template": gguf.get("tokenizer.chat_template"),
    }


def generation_config(gguf):
    return {f"{role}_token_id": i for role, i in special_ids(gguf).items() if role != "unk"}


def hugging_face_name(gguf, name):
    match = re.fullmatch(r"(?:blk\.(\d+)\.)?(\w+)\.weight", name)
    layer, part = match.groups() if match else (None, None)
    table = MODEL_TENSORS if layer is None else LAYER_TENSORS
    if part not in table:
        raise BadData(
            f"{gguf.path}: tensor {name!r} is no part of a plain Llama model (biases and experts are not read)"
        )
    prefix = "" if layer is None else f"model.layers.{layer}."
    return f"{prefix}{table[part]}.weight"


def expected_shapes(config):
    """Name -> shape of every weight that a model of this config has."""
    hidden, ffn, heads = config["hidden_size"], config["intermediate_size"], config["num_attention_heads"]
    kv = hidden // heads * config["num_key_value_heads"]
    layer = {
        "input_layernorm": [hidden],
        "post_attention_layernorm": [hidden],
        "self_attn.q_proj": [hidden, hidden],
        "self_attn.k_proj": [kv, hidden],
        "self_attn.v_proj": [kv, hidden],
        "self_attn.o_proj": [hidden, hidden],
        "mlp.gate_proj": [ffn, hidden],
        "mlp.up_proj": [ffn, hidden],
        "mlp.down_proj": [hidden, ffn],
    }
    shapes = {"model.embed_tokens.weight": [config["vocab_size"], hidden], "model.norm.weight": [hidden]}
    if not config["tie_word_embeddings"]:
        shapes["lm_head.weight"] = [config["vocab_size"], hidden]
    for n in range(config["num_hidden_layers"]):
        shapes.update({f"model.layers.{n}.{part}.weight": shape for part, shape in layer.items()})
    return shapes


def check_shapes(gguf, tensors, config):
    expected = expected_shapes(config)
    if missing := sorted(expected.keys() - tensors.keys()):
        raise BadData(f"{gguf.path}: {len(missing)} weights are missing, first {missing[0]}")
    if extra := sorted(tensors.keys() - expected.keys()):
        raise BadData(f"{gguf.path}: {len(extra)} weights more than llama.block_count allows, first {extra[0]}")
    for name, tensor in tensors.items():
        if shape_of(tensor) != expected[name]:
            raise BadData(f"{gguf.path}: {name} is {shape_of(tensor)}, the header says {expected[name]}")


def shape_of(tensor):
    return [int(size) for size in reversed(tensor.shape)]  # GGUF counts dimensions from the fastest


def to_bfloat16(values, name):
    """float32 to the bits of bfloat16, rounded to nearest, ties to even."""
    if not np.isfinite(values).all():
        raise BadData(f"{name}: holds a value that is not finite; the file is damaged")
    bits = np.ascontiguousarray(values, np.float32).view(np.uint32)
    return ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype("<u2")


def split_rotary_halves(weight_OC, heads):
    """GGUF interleaves the two rotary halves of each head; Hugging Face stores one behind the other."""
    rows, columns = weight_OC.shape
    return weight_OC.reshape(heads, rows // heads // 2, 2, columns).swapaxes(1, 2).reshape(rows, columns)


def bfloat16_slices(tensor, name, config):
    """Yields the tensor's bytes in file order."""
    heads = {"q_proj": config["num_attention_heads"], "k_proj": config["num_key_value_heads"]}.get(name.split(".")[-2])
    if heads:
        yield to_bfloat16(split_rotary_halves(dequantize(tensor.data, tensor.tensor_type), heads), name)
        return
    data = np.atleast_2d(tensor.data)
    step = max(1, SLICE_ELEMENTS // shape_of(tensor)[-1])
    for row in range(0, len(data), step):
        yield to_bfloat16(dequantize(data[row : row + step], tensor.tensor_type), name)


def safetensors_header(tensors):
    header, offset = {"__metadata__": {"format": "pt"}}, 0
    for name in sorted(tensors):
        end = offset + 2 * tensors[name].n_elements
        header[name] = {"dtype": "BF16", "shape": shape_of(tensors[name]), "data_offsets": [offset, int(end)]}
        offset = int(end)
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return struct.pack("<Q", len(text)) + text


def write_safetensors(path, tensors, config):
    """Returns the SHA-256 of what was written."""
    digest = hashlib.sha256()
    with durable_file(path) as file:

        def put(part):
            digest.update(part)
            file.write(part)

        put(safetensors_header(tensors))
        for name in sorted(tensors):
            for bits in bfloat16_slices(tensors[name], name, config):
                put(bits.data)
    return digest.hexdigest()


def write_json(path, value):
    with durable_file(path) as file:
        file.write(json.dumps(value, indent=2, ensure_ascii=False).encode())


def check_written(path, written):
    with open(path, "rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if found != written:
        raise CannotWrite(f"{path}: wrote sha256 {written}, read back {found}; check the disk")


def build(gguf, folder):
    """Writes the model into an existing empty folder; returns a line that describes it."""
    tensors = {hugging_face_name(gguf, tensor.name): tensor for tensor in gguf.reader.tensors}
    config = model_config(gguf, tied="lm_head.weight" not in tensors)
    check_shapes(gguf, tensors, config)
    write_json(folder / "config.json", config)
    write_json(folder / "generation_config.json", generation_config(gguf))
    write_json(folder / "tokenizer.json", tokenizer(gguf))
    write_json(folder / "tokenizer_config.json", tokenizer_config(gguf))
    weights = folder / "model.safetensors"
    written = write_safetensors(weights, tensors, config)
    check_written(weights, written)
    size = weights.stat().st_size
    return f"{len(tensors)} tensors, {size:,} bytes bf16, {config['vocab_size']} tokens, sha256 {written[:16]}"


def import_gguf(args):
    gguf = Gguf(args.gguf)
    with whole_folder(args.out, args.force) as folder:
        summary = build(gguf, folder)
    print(f"{args.out}: {summary}")


def main(argv=None):
    options = parser(__doc__, "tools/import_gguf.py SmolLM2-135M-Instruct.Q4_1.gguf models/SmolLM2-135M-Instruct")
    options.add_argument("gguf", type=Path, metavar="MODEL.gguf", help="the file to read")
    options.add_argument("out", type=Path, metavar="FOLDER", help="the folder to make; must not exist yet")
    args = options.parse_args(argv)
    return run("import_gguf", lambda: import_gguf(args))


if __name__ == "__main__":
    sys.exit(main())
