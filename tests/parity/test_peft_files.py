"""Adapter directories that we write load in PEFT, and the other way round: every key, every bit."""

import json
import random
import warnings

import pytest
import torch
from huggingface_hub import ModelCard
from peft import LoraConfig, PeftModel, get_peft_model, get_peft_model_state_dict
from safetensors.torch import load_file, save_file

from lora_tool import adapted_by_peft, ask, config_text, fresh_model
from test_target_matching import random_config

PLAIN = dict(
    r=4, lora_alpha=6, target_modules=["q_proj", "up_proj"], rank_pattern={"up_proj": 2}, task_type="CAUSAL_LM"
)


def random_adapter(fields, family, seed=0):
    """A PEFT model whose A and B are all random, or None where the configuration fits no module."""
    torch.manual_seed(seed)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            model = get_peft_model(fresh_model(family), LoraConfig(**fields))
        except ValueError:
            return None
    for name, parameter in model.named_parameters():
        if "lora_" in name:
            torch.nn.init.normal_(parameter)
    return model


def adapter_tensors(model):
    return get_peft_model_state_dict(model, save_embedding_layers=False)


def as_request(tensors):
    return {key: {"shape": list(t.shape), "data": t.double().flatten().tolist()} for key, t in tensors.items()}


def as_tensors(answer):
    return {
        key: torch.tensor(t["data"], dtype=torch.float32).reshape(t["shape"]) for key, t in answer["tensors"].items()
    }


def assert_same_bits(ours, theirs):
    assert ours.keys() == theirs.keys()
    for key, tensor in theirs.items():
        assert ours[key].dtype == tensor.dtype and torch.equal(ours[key], tensor), key


def load_strictly(directory, family):
    """PeftModel.from_pretrained, where every warning of PEFT's and every missing or unexpected key is an error."""
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        warnings.simplefilter("error", RuntimeWarning)
        warnings.filterwarnings("ignore", message=".*tie_word_embeddings.*")  # lm_head, and as harmless at training
        model = PeftModel.from_pretrained(fresh_model(family), directory)
        result = model.load_adapter(directory, "again")
    assert not result.unexpected_keys
    assert not [key for key in result.missing_keys if "lora_" in key]
    return model


def written_by_us(fields, family, directory, seed=0):
    """The PEFT model that was to be written, or None; its tensors are in `directory` after this."""
    model = random_adapter(fields, family, seed)
    if model is None:
        return None
    tensors = adapter_tensors(model)
    text = json.loads(config_text(LoraConfig(**fields))) | {"base_model_name_or_path": "models/tiny"}
    answer = ask("write", family, config=json.dumps(text), directory=str(directory), tensors=as_request(tensors))
    assert answer == {}, answer
    return model


@pytest.mark.parametrize("family", ["llama", "qwen3"])
@pytest.mark.parametrize("seed", range(12))
def test_what_we_write_loads_in_peft(family, seed, tmp_path):
    fields = {**random_config(random.Random(f"files {family} {seed}"), family), "task_type": "CAUSAL_LM"}
    source = written_by_us(fields, family, tmp_path, seed)
    if source is None:
        pytest.skip("this configuration fits no module")
    loaded = load_strictly(tmp_path, family)
    assert adapted_by_peft(loaded) == adapted_by_peft(source), (seed, fields)
    assert_same_bits(adapter_tensors(loaded), adapter_tensors(source))


def test_scaling_survives_a_save_by_peft(tmp_path):
    """PEFT sorts the patterns when it saves; here that would give every module rank 2."""
    fields = {**PLAIN, "rank_pattern": {"up_proj": 3, r".*_proj": 2}, "alpha_pattern": {"q_proj": 5, r".*": 9}}
    source = written_by_us(fields, "llama", tmp_path)
    load_strictly(tmp_path, "llama").save_pretrained(tmp_path / "second")
    answer = ask("read", "llama", directory=str(tmp_path / "second"))
    assert answer["modules"] == adapted_by_peft(source)
    assert_same_bits(as_tensors(answer), load_file(tmp_path / "adapter_model.safetensors"))


@pytest.mark.parametrize("family", ["llama", "qwen3"])
@pytest.mark.parametrize(
    "targets", ["all-linear", r".*\.[02]\..*(q|v)_proj", ["k_proj", "lm_head"], ["layers.1.mlp.up_proj"]]
)
def test_what_peft_writes_is_read(family, targets, tmp_path):
    model = random_adapter({**PLAIN, "target_modules": targets, "use_rslora": True, "rank_pattern": {}}, family)
    model.save_pretrained(tmp_path, save_embedding_layers=False)
    answer = ask("read", family, directory=str(tmp_path))
    assert answer["modules"] == adapted_by_peft(model)
    assert_same_bits(as_tensors(answer), adapter_tensors(model))


@pytest.mark.parametrize("init", [False, "gaussian", "orthogonal", "eva"])
def test_initialisations_that_leave_the_base_alone_are_read(init, tmp_path):
    model = random_adapter(PLAIN, "llama")
    model.peft_config["default"].init_lora_weights = init
    model.save_pretrained(tmp_path)
    assert ask("read", "llama", directory=str(tmp_path))["modules"] == adapted_by_peft(model)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_sixteen_bit_adapters_are_widened_exactly(dtype, tmp_path):
    random_adapter(PLAIN, "llama").save_pretrained(tmp_path)
    file = tmp_path / "adapter_model.safetensors"
    half = {key: t.to(dtype) for key, t in load_file(file).items()}
    save_file(half, file, metadata={"format": "pt"})
    answer = ask("read", "llama", directory=str(tmp_path))
    assert_same_bits(as_tensors(answer), {key: t.float() for key, t in half.items()})


@pytest.mark.parametrize(
    "change, field",
    [
        ({"use_dora": True}, "use_dora"),
        ({"bias": "lora_only"}, "bias"),
        ({"lora_bias": True}, "lora_bias"),
        ({"modules_to_save": ["lm_head"]}, "modules_to_save"),
        ({"init_lora_weights": "pissa"}, "init_lora_weights"),
        ({"init_lora_weights": "olora"}, "init_lora_weights"),
        ({"trainable_token_indices": [1, 2]}, "trainable_token_indices"),
        ({"target_modules": ["q_proj", "embed_tokens"]}, "embed_tokens"),
    ],
)
def test_what_is_more_than_plain_lora_is_refused(change, field, tmp_path):
    model = get_peft_model(fresh_model("llama"), LoraConfig(**{**PLAIN, "rank_pattern": {}, **change}))
    model.save_pretrained(tmp_path)
    answer = ask("read", "llama", directory=str(tmp_path))
    assert answer["code"] == 65 and field in answer["error"], answer


def test_the_model_card_is_one_that_the_hub_reads(tmp_path):
    written_by_us(PLAIN, "llama", tmp_path)
    card = ModelCard.load(tmp_path / "README.md")
    assert (card.data.base_model, card.data.library_name) == ("models/tiny", "peft")


def test_adapter_config_is_a_part_of_pefts_own(tmp_path):
    """Every field that we write is one of PEFT's, and PEFT's defaults for the others mean plain LoRA."""
    written_by_us(PLAIN, "llama", tmp_path)
    ours = json.loads((tmp_path / "adapter_config.json").read_text())
    random_adapter(PLAIN, "llama").save_pretrained(tmp_path / "peft")
    theirs = json.loads((tmp_path / "peft" / "adapter_config.json").read_text())
    theirs["target_modules"].sort()
    theirs["base_model_name_or_path"] = ours["base_model_name_or_path"]
    assert {key: theirs[key] for key in ours} == ours
