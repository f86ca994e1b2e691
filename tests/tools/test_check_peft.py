"""check_peft.py on an adapter that PEFT made, whole and damaged."""

import pytest
import torch
import transformers
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file, save_file

import check_peft

SHAPE = dict(vocab_size=32, hidden_size=16, intermediate_size=24, num_hidden_layers=1, num_attention_heads=2)


@pytest.fixture
def folders(tmp_path):
    model = transformers.LlamaForCausalLM(transformers.LlamaConfig(**SHAPE))
    model.save_pretrained(tmp_path / "model")
    get_peft_model(model, LoraConfig(r=2, target_modules=["q_proj"])).save_pretrained(tmp_path / "adapter")
    return tmp_path / "model", tmp_path / "adapter"


def change(adapter, edit):
    tensors = load_file(adapter / "adapter_model.safetensors")
    edit(tensors)
    save_file(tensors, adapter / "adapter_model.safetensors", metadata={"format": "pt"})


def test_a_whole_adapter_passes(folders, capsys):
    assert check_peft.main([*map(str, folders)]) == 0
    assert "yes: 2 tensors, none missing, none unexpected" in capsys.readouterr().out


@pytest.mark.parametrize(
    "edit, complaint",
    [
        (lambda tensors: tensors.pop(next(iter(tensors))), "1 tensors are missing"),
        (lambda tensors: tensors.update({"base_model.model.more.lora_A.weight": torch.ones(2)}), "1 tensors are unexp"),
    ],
)
def test_what_peft_would_let_pass_is_an_error(folders, capsys, edit, complaint):
    change(folders[1], edit)
    assert check_peft.main([*map(str, folders)]) == 65
    assert complaint in capsys.readouterr().err


def test_a_folder_without_an_adapter_is_named(folders, tmp_path, capsys):
    assert check_peft.main([str(folders[0]), str(tmp_path)]) == 66
    assert str(tmp_path) in capsys.readouterr().err
