"""Numbers that are not finite on one rank: all ranks leave out the same step, and too many of them end the run."""

import json
import re
import shutil

import pytest
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer

from runs import write_data

POISON = "Z"  # in no word of the data, so that its token is in one record alone


@pytest.fixture
def poisoned(tiny, new_run):
    """poisoned(value, train=...): a run whose base gives the poison's token an embedding of `value`, over 48 records
    of which one holds it."""
    model, data = tiny.directory / "poisoned", tiny.directory / "poisoned.jsonl"

    def run(value, name="a", **train):
        shutil.copytree(tiny.model, model, dirs_exist_ok=True)
        weights = load_file(tiny.model / "model.safetensors")
        weights["model.embed_tokens.weight"][Tokenizer.from_file(str(model / "tokenizer.json")).token_to_id(POISON)] = (
            value
        )
        save_file(weights, model / "model.safetensors", {"format": "pt"})
        write_data(data, 47, seed=1)
        turns = [{"role": "user", "content": POISON}, {"role": "assistant", "content": "ash"}]
        with data.open("a") as file:
            file.write(json.dumps({"messages": turns}) + "\n")
        return new_run(
            name,
            model=dict(path=str(model)),
            data=dict(train=[{"path": str(data), "format": "messages"}], packing=False),
            train=dict(warmup_steps=0) | train,
        )

    return run


WARNING = r"step (\d+): the loss or a gradient of rank (\d) is not finite; all ranks leave the step out"
FOUR_EPOCHS = dict(max_steps=None, num_train_epochs=4, save_steps=0)


def test_a_step_that_is_not_finite_on_one_rank_is_left_out_by_all(poisoned):
    run = poisoned(float("nan"), **FOUR_EPOCHS)
    output = run.train(2)
    assert "weights that are not finite" in output
    left_out = {int(step): int(rank) for step, rank in re.findall(WARNING, output)}
    assert len(left_out) == 4 and set(left_out.values()) == {0, 1}, "once an epoch, on either rank in turn"
    assert {entry["step"] for entry in run.steps() if entry["loss"] is None} == set(left_out)
    alone = poisoned(float("nan"), "alone", **FOUR_EPOCHS)
    alone.train(0)
    finite = [entry["loss"] for entry in run.steps() if entry["loss"] is not None]
    assert finite == pytest.approx([entry["loss"] for entry in alone.steps() if entry["loss"] is not None], rel=1e-5)
    assert finite[-1] < finite[0]


def test_too_many_steps_that_are_not_finite_end_the_run(poisoned):
    run = poisoned(float("nan"), max_nonfinite_steps=0)
    output = run.train(2, expect=70)
    assert output.count("not finite in 1 steps in a row (train.max_nonfinite_steps is 0)") == 1
    assert "lower train.learning_rate or look at the data" in output
