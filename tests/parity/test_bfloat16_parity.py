"""bfloat16, where rounding is most of a difference: our error beside PEFT's own, both measured from float64."""

import pytest
import torch
import transformers
from peft import PeftModel

from comparison import TOLERANCE, assert_as_near, gradient_errors, loss_error, run_ours
from tiny_models import (
    DEVICE,
    FAMILIES,
    FUSED_ADAPTER,
    FUSED_WIDTH,
    load_peft,
    make_adapter,
    make_model,
    make_samples,
    train_peft,
)

SEED = 20261122
DRAWS = 4  # batches a family: one error alone is a matter of luck
ADAPTERS = ({}, FUSED_ADAPTER)  # by turns
STEPS = 3
LEARNING_RATE = 1e-3


def load_peft_bfloat16(model_dir, adapter_dir):
    """As PEFT does it unasked: the adapter stays in float32."""
    base = transformers.AutoModelForCausalLM.from_pretrained(model_dir, dtype=torch.bfloat16)
    return PeftModel.from_pretrained(base, adapter_dir, is_trainable=True).to(DEVICE).eval()


def errors_of_family(directory, family):
    """(ours, PEFT's) for each draw."""
    model = make_model(  # both start from the same weights
        directory / "model", family, SEED, dtype=torch.bfloat16, intermediate_size=FUSED_WIDTH
    )
    adapters = [make_adapter(directory / f"adapter-{n}", model, SEED + 1, **a) for n, a in enumerate(ADAPTERS)]
    for draw in range(DRAWS):
        adapter = adapters[draw % len(adapters)]
        samples = make_samples(6, 320, SEED + 2 + draw)
        steps = STEPS, LEARNING_RATE
        truth = train_peft(load_peft(model, adapter, torch.float64), samples, *steps)
        theirs = train_peft(load_peft_bfloat16(model, adapter), samples, *steps)
        ours = run_ours(directory, model, adapter, samples, dtype="bfloat16", steps=STEPS, learning_rate=LEARNING_RATE)
        assert loss_error(ours, truth) < TOLERANCE["bfloat16"]["loss"], family
        yield gradient_errors(ours, truth), gradient_errors(theirs, truth)


@pytest.mark.parametrize("what", ["gradient", "dX"])
def test_gradients_are_as_near_to_the_truth_as_pefts(all_errors, what):
    theirs = assert_as_near(all_errors, what, "PEFT's own")
    assert theirs > 1e-3, "PEFT did not compute in bfloat16"


@pytest.fixture(scope="module")
def all_errors(tmp_path_factory):
    print(f"seed {SEED}")
    return [pair for family in FAMILIES for pair in errors_of_family(tmp_path_factory.mktemp(family), family)]
