"""One batch through Rankwise and PEFT before their speeds are compared: the same files, adapter and samples.

Both in bfloat16 (PEFT with adapters in float32, as it makes them, and in bfloat16), and Rankwise in float32 too; PEFT in
float32 (without TF32) says how far each is off. Prints one line of JSON: losses of every step, and the distances of the
first step's gradients.
"""

import argparse
import json
import sys
import tempfile
from pathlib import Path

import torch
from peft import PeftModel, get_peft_model
from peft_step import DTYPES, LORA
from safetensors.torch import save_file
from transformers import AutoConfig, AutoModelForCausalLM

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "parity"))
from comparison import flat, gradients, relative, run_ours  # noqa: E402
from tiny_models import make_samples, peft_key, train_peft  # noqa: E402

SEED = 20261125
STEPS, LEARNING_RATE = 3, 1e-4


def make_adapter(directory, model_dir):
    """Random A, and B that is not zero: else A had no gradient."""
    with torch.device("meta"):
        base = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(model_dir))
        model = get_peft_model(base, LORA)
    generator = torch.Generator().manual_seed(SEED)
    tensors = {
        peft_key(name): torch.randn(parameter.shape, generator=generator) * parameter.shape[1] ** -0.5 / 4
        for name, parameter in model.named_parameters()
        if parameter.requires_grad
    }
    model.peft_config["default"].save_pretrained(directory)
    save_file(tensors, directory / "adapter_model.safetensors")
    return directory


def peft(model_dir, adapter_dir, samples, dtype, device, float32_adapter=True):
    base = AutoModelForCausalLM.from_pretrained(
        model_dir, dtype=DTYPES[dtype], attn_implementation="sdpa", device_map={"": device}
    )
    model = PeftModel.from_pretrained(base, adapter_dir, is_trainable=True, autocast_adapter_dtype=float32_adapter).to(
        device
    )
    result = train_peft(model.eval(), samples, STEPS, LEARNING_RATE)
    del model, base
    if device == "cuda":
        torch.cuda.empty_cache()  # Rankwise's processes want the GPU for themselves
    return result


def ours(directory, model_dir, adapter_dir, samples, dtype, device):
    options = dict(dtype=dtype, device=device, steps=STEPS, learning_rate=LEARNING_RATE, logits=False)
    return run_ours(directory, model_dir, adapter_dir, samples, **options)


def distances(result, truth):
    """Losses, and how far the adapter's gradient and that of the embeddings lie from the truth's."""
    keys = gradients(truth)
    return {
        "loss": [float(loss) for loss in result["losses"]],
        "gradient_error": relative(flat(result, keys), flat(truth, keys)),
        "dx_error": relative(result["dembedding"].double(), truth["dembedding"]),
    }


def compare(directory, options):
    vocabulary = AutoConfig.from_pretrained(options.model).vocab_size
    samples = make_samples(options.samples, vocabulary, SEED, longest=options.longest)
    inputs = options.model, make_adapter(directory / "adapter", options.model), samples
    truth = peft(*inputs, "float32", options.device)
    results = {
        "PEFT float32": truth,
        "Rankwise float32": ours(directory, *inputs, "float32", options.device),
        "PEFT bfloat16": peft(*inputs, "bfloat16", options.device),
        "PEFT bfloat16, adapter too": peft(*inputs, "bfloat16", options.device, float32_adapter=False),
        "Rankwise bfloat16": ours(directory, *inputs, "bfloat16", options.device),
    }
    tokens = sum(len(sample["ids"]) for sample in samples)
    return {"tokens": tokens, "results": {name: distances(result, truth) for name, result in results.items()}}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", type=Path, help="a directory of random_model.py")
    parser.add_argument("--samples", type=int, default=4)
    parser.add_argument("--longest", type=int, default=1024, help="tokens of a sample")
    parser.add_argument("--device", choices=["cuda", "cpu"], default="cuda")
    with tempfile.TemporaryDirectory() as directory:
        print(json.dumps(compare(Path(directory), parser.parse_args())))


if __name__ == "__main__":
    main()
