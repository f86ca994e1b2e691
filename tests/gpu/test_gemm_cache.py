"""GEMM algorithms that a run has timed are in data.cache_dir, and the next run times none."""

import pytest
import torch
import transformers

from runs import Run, write_tokenizer
from tiny_models import COMMON

SEED = 20261127
LARGE = dict(hidden_size=256, intermediate_size=512, num_hidden_layers=2, num_attention_heads=4, head_dim=64)


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """As tiny as cuBLASLt is asked for."""
    directory = tmp_path_factory.mktemp("large")
    torch.manual_seed(SEED)
    config = transformers.LlamaConfig(**COMMON | LARGE)
    transformers.LlamaForCausalLM(config).to(torch.bfloat16).save_pretrained(directory)
    write_tokenizer(directory)
    return directory


@pytest.fixture
def new_run(tiny, model, tmp_path):
    def make(name, deterministic):
        train = dict(max_steps=4, per_device_train_batch_size=8, global_batch_size=8, deterministic=deterministic)
        return Run(
            tmp_path / name,
            tiny.settings(
                model=dict(path=str(model), dtype="bfloat16"), data=dict(cache_dir=str(tmp_path / "cache")), train=train
            ),
        )

    return make


def test_a_second_run_times_nothing(new_run, tmp_path):
    new_run("first", deterministic=False).train(1)
    [kept] = (tmp_path / "cache").glob("gemm-*.json")
    text, inode = kept.read_text(), kept.stat().st_ino
    assert " bf16 " in text
    new_run("second", deterministic=False).train(1)
    assert kept.read_text() == text
    assert kept.stat().st_ino == inode  # whatever is kept is a new file under the name


def test_deterministic_runs_keep_nothing(new_run, tmp_path):
    new_run("first", deterministic=True).train(1)
    assert not list((tmp_path / "cache").glob("gemm-*"))
