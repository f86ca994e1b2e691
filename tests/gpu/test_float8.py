"""Products in float8: our error beside that of PEFT with the same roundings made by hand, both measured from float64.

Truth is PEFT over the weights that come back from float8; what is left to differ are rows of activations and gradients,
rounded to e4m3, and bfloat16.
"""

import pytest
import torch
import transformers
from peft import PeftModel
from peft.tuners.lora import LoraLayer

from comparison import assert_as_near, gradient_errors, loss_error, run_ours
from packed_formats import float8_rows, save_packed
from tiny_models import FUSED_ADAPTER, FUSED_WIDTH, load_peft, make_adapter, make_model, make_samples, train_peft

SEED = 20261126
DRAWS = 4
ADAPTERS = ({}, FUSED_ADAPTER)  # by turns
STEPS = dict(steps=3, learning_rate=1e-3)


class Float8Product(torch.autograd.Function):
    """x W^T of rounded rows; backward the scales of W's rows go into the gradient before its rows are rounded."""

    @staticmethod
    def forward(ctx, x, codes, scales):
        ctx.save_for_backward(codes, scales)
        x_codes, x_scales = float8_rows(x)
        return ((x_codes @ codes.T) * x_scales * scales.T).to(x.dtype)

    @staticmethod
    def backward(ctx, dy):
        codes, scales = ctx.saved_tensors
        dy_codes, dy_scales = float8_rows(dy.float() * scales.T)
        return ((dy_codes @ codes) * dy_scales).to(dy.dtype), None, None


def multiply_in_float8(layer):
    codes, scales = float8_rows(layer.weight.detach())
    bias = layer.bias

    def forward(x):
        y = Float8Product.apply(x, codes, scales)
        return y if bias is None else y + bias

    layer.forward = forward


def load_peft_float8(model_dir, adapter_dir):
    base = transformers.AutoModelForCausalLM.from_pretrained(model_dir, dtype=torch.bfloat16)
    model = PeftModel.from_pretrained(base, adapter_dir, is_trainable=True).eval()
    for module in model.modules():
        if isinstance(module, LoraLayer):
            multiply_in_float8(module.base_layer)
    return model


def errors_of_family(directory, family):
    model = make_model(directory / "model", family, SEED, dtype=torch.bfloat16, intermediate_size=FUSED_WIDTH)
    adapters = [make_adapter(directory / f"adapter-{n}", model, SEED + 1, **a) for n, a in enumerate(ADAPTERS)]
    base = transformers.AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32)
    packed = save_packed(directory / "packed", base, "float8")
    for draw in range(DRAWS):
        adapter = adapters[draw % len(adapters)]
        samples = make_samples(6, 320, SEED + 2 + draw)
        truth = train_peft(load_peft(packed, adapter, torch.float64), samples, *STEPS.values())
        theirs = train_peft(load_peft_float8(model, adapter), samples, *STEPS.values())
        ours = run_ours(
            directory, model, adapter, samples, dtype="bfloat16", base_dtype="float8", device="cuda", **STEPS
        )
        print(f"{family}: losses off by {loss_error(ours, truth):.4f}, by hand {loss_error(theirs, truth):.4f}")
        yield gradient_errors(ours, truth), gradient_errors(theirs, truth)


@pytest.fixture(scope="module")
def all_errors(tmp_path_factory):
    print(f"seed {SEED}")
    families = ("llama", "llama_bias", "qwen3")
    return [pair for family in families for pair in errors_of_family(tmp_path_factory.mktemp(family), family)]


@pytest.mark.parametrize("what", ["gradient", "dX"])
def test_gradients_are_as_near_to_the_truth_as_roundings_by_hand(all_errors, what):
    theirs = assert_as_near(all_errors, what, "by hand")
    assert theirs > 1e-2, "by hand nothing was rounded to float8"
