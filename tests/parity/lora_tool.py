"""Our adapter code, for the tests beside this file, and the tiny models that they adapt."""

import copy
import functools
import json
import os
import subprocess
from pathlib import Path

import torch
from peft.tuners.lora import LoraLayer
from transformers import LlamaConfig, LlamaForCausalLM, Qwen3Config, Qwen3ForCausalLM

ROOT = Path(__file__).resolve().parents[2]
TOOL = Path(os.environ.get("RANKWISE_BUILD", ROOT / "build" / "release")) / "tests" / "support" / "lora_tool"

SIZES = dict(
    vocab_size=40, hidden_size=8, intermediate_size=12, num_attention_heads=2, num_key_value_heads=1, head_dim=4
)


@functools.cache
def _model(family):
    torch.manual_seed(0)
    if family == "llama":
        return LlamaForCausalLM(LlamaConfig(**SIZES, num_hidden_layers=12, tie_word_embeddings=False))
    return Qwen3ForCausalLM(Qwen3Config(**SIZES, num_hidden_layers=3, tie_word_embeddings=True))


def fresh_model(family):
    return copy.deepcopy(_model(family))


@functools.cache
def modules(family):
    """What the tool is told of a model: its linear layers and embeddings, in model order."""
    model = _model(family)
    rows = []
    for name, module in model.named_modules():
        if isinstance(module, torch.nn.Embedding):
            rows.append({"name": name, "in": module.num_embeddings, "out": module.embedding_dim, "kind": "embedding"})
        elif isinstance(module, torch.nn.Linear):
            kind = "output_embedding" if module is model.get_output_embeddings() else "linear"
            rows.append({"name": name, "in": module.in_features, "out": module.out_features, "kind": kind})
    return rows


def ask(verb, family, **request):
    assert TOOL.is_file(), f"{TOOL} is not there: build it first, or set RANKWISE_BUILD"
    request = {"do": verb, "modules": modules(family), **request}
    run = subprocess.run([TOOL], input=json.dumps(request), capture_output=True, text=True, timeout=60, check=True)
    return json.loads(run.stdout)


def config_text(config):
    """adapter_config.json with the patterns in the user's order, which PEFT's own save would sort."""
    fields = config.to_dict()
    return json.dumps({key: sorted(value) if isinstance(value, set) else value for key, value in fields.items()})


def adapted_by_peft(model):
    """Module -> what the tool reports of it."""
    return {
        name: {"r": layer.r["default"], "alpha": layer.lora_alpha["default"], "scaling": layer.scaling["default"]}
        for name, layer in model.base_model.model.named_modules()
        if isinstance(layer, LoraLayer)
    }
