"""What the peer takes from packages beside PEFT: Liger's kernels, float8 by torchao, NF4 by bitsandbytes, Unsloth.

Each package is imported where it is asked for, and stands in no requirements: `missing` says what to install. Models are
those of peft_step.py, on the meta device until their weights are drawn.
"""

import importlib.util
import sys
import types

if "--unsloth" in sys.argv and importlib.util.find_spec("unsloth"):
    import unsloth  # noqa: F401  patches transformers and PEFT, and wants to be there before them

import torch

PACKAGES = {  # option of peft_step.py: (module, what was tried)
    "liger": ("liger_kernel", "liger-kernel==0.8.5"),
    "float8": ("torchao", "torchao==0.17.0"),
    "nf4": ("bitsandbytes", "bitsandbytes==0.50.2"),
    "unsloth": ("unsloth", "unsloth==2026.10.9 unsloth_zoo==2026.10.9"),
}


def missing(option):
    """What to install for an option; None if it is there."""
    module, package = PACKAGES[option]
    return None if importlib.util.find_spec(module) else package


def apply_liger(kind):
    """For models that are made from now on. loss: the head's product fused with the cross entropy; all: rows, too."""
    from liger_kernel.transformers import apply_liger_kernel_to_llama

    rows = kind == "all"
    apply_liger_kernel_to_llama(
        rope=rows, rms_norm=rows, swiglu=rows, cross_entropy=False, fused_linear_cross_entropy=True
    )


def fits_float8(module, name):
    """Frozen layers inside of LoRA's, of whole tiles; not A, B and the head."""
    return name.endswith(".base_layer") and module.in_features % 16 == 0 and module.out_features % 16 == 0


def multiply_in_float8(model, device):
    """Scales a tensor, found anew for each product, from weights that stay bfloat16.

    torchao's backward computes the gradients of frozen weights, too; compiled, they are dropped. CPUs emulate it.
    """
    from torchao.float8 import Float8LinearConfig, convert_to_float8_training

    config = Float8LinearConfig(emulate=device == "cpu")  # its default: tensorwise
    convert_to_float8_training(model, config=config, module_filter_fn=fits_float8)


def with_nf4_layers(model):
    """The linear layers of the blocks as those of QLoRA: NF4, double quantisation, computed in bfloat16."""
    from transformers import BitsAndBytesConfig
    from transformers.integrations.bitsandbytes import replace_with_bnb_linear

    config = BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=torch.bfloat16,
    )
    replace_with_bnb_linear(model, ["lm_head"], config)
    model.is_loaded_in_4bit = True  # PEFT then takes its own layers for it
    return model


def allocate_nf4(model, device):
    """Memory for all weights; those in NF4 drawn and quantised one by one, so that no more is held than is kept."""
    from bitsandbytes.nn import Linear4bit, Params4bit

    for module in model.modules():
        if not isinstance(module, Linear4bit):
            module.to_empty(device=device, recurse=False)
            continue
        drawn = torch.empty(module.weight.shape, dtype=torch.bfloat16, device=device).normal_(std=0.02)
        module.weight = Params4bit(drawn, compress_statistics=True, quant_type="nf4", module=module).to(device)


def unsloth_model(config, lora, options):
    """What FastLanguageModel.from_pretrained and get_peft_model make, with random weights instead of files.

    Adapters in float32, all activations kept; it compiles its layers and its loss itself.
    """
    from transformers import LlamaForCausalLM, Trainer
    from unsloth.models.llama import FastLlamaModel

    FastLlamaModel.pre_patch()
    with torch.device(options.device):
        model = LlamaForCausalLM._from_config(config, dtype=torch.bfloat16)
    FastLlamaModel.post_patch(model, None, correct_dtype=torch.bfloat16)
    model.max_seq_length = options.sequence_length
    model._saved_temp_tokenizer = types.SimpleNamespace()  # get_peft_model sets its side of padding
    Trainer._inner_training_loop.__name__ = "_fast_inner_training_loop"  # else refused; nothing here calls it
    return FastLlamaModel.get_peft_model(
        model,
        r=lora.r,
        lora_alpha=lora.lora_alpha,
        target_modules=list(lora.target_modules),
        use_gradient_checkpointing=False,
    )
