"""Random models of the supported families in real shape rules, and the same batch through PEFT."""

import itertools
import json
import os

import torch
import transformers
from peft import LoraConfig, PeftModel, get_peft_model
from peft.tuners.lora import LoraLayer

COMMON = dict(
    vocab_size=320,
    hidden_size=96,
    intermediate_size=176,
    num_hidden_layers=3,
    num_attention_heads=6,
    num_key_value_heads=2,
    head_dim=16,
    max_position_embeddings=256,
    initializer_range=0.2,
)
LLAMA3_ROPE = dict(
    rope_type="llama3",
    rope_theta=500000.0,
    factor=8.0,
    low_freq_factor=1.0,
    high_freq_factor=4.0,
    original_max_position_embeddings=32,
)
DEVICE = os.environ.get("RANKWISE_TEST_DEVICE", "cpu")  # of our side

FUSED_ADAPTER = dict(r=16, lora_alpha=32)  # which, beside an MLP of this width, the low-rank kernels of GPUs take
FUSED_WIDTH = 192

FAMILIES = {
    "llama": lambda c: transformers.LlamaConfig(**c, rope_parameters=LLAMA3_ROPE, tie_word_embeddings=False),
    "llama_tied": lambda c: transformers.LlamaConfig(**c, tie_word_embeddings=True),
    "llama_bias": lambda c: transformers.LlamaConfig(**c, attention_bias=True, mlp_bias=True),
    "mistral": lambda c: transformers.MistralConfig(**c, sliding_window=7),
    "qwen2": lambda c: transformers.Qwen2Config(**{k: v for k, v in c.items() if k != "head_dim"}),
    "qwen3": lambda c: transformers.Qwen3Config(**c),
}


def make_model(directory, family, seed, dtype=torch.float32, **shape):
    """Saves a random model; biases and norms are random too, so that none of them can be forgotten."""
    torch.manual_seed(seed)
    model = transformers.AutoModelForCausalLM.from_config(FAMILIES[family](COMMON | shape))
    for name, parameter in model.named_parameters():
        if parameter.dim() == 1:
            torch.nn.init.normal_(parameter, mean=1.0 if "norm" in name else 0.0, std=0.2)
    model.to(dtype).save_pretrained(directory)
    return directory


def make_adapter(directory, model_dir, seed, **options):
    """Saves an adapter with random A and random, non-zero B."""
    torch.manual_seed(seed)
    settings = (
        dict(r=4, lora_alpha=8, target_modules="all-linear", init_lora_weights=False, task_type="CAUSAL_LM") | options
    )
    model = get_peft_model(transformers.AutoModelForCausalLM.from_pretrained(model_dir), LoraConfig(**settings))
    model.save_pretrained(directory)
    return directory


def make_samples(count, vocabulary, seed, longest=40):
    generator = torch.Generator().manual_seed(seed)
    samples = []
    for _ in range(count):
        length = int(torch.randint(5, longest, (1,), generator=generator))
        ids = torch.randint(0, vocabulary, (length,), generator=generator).tolist()
        prompt = int(torch.randint(1, length - 1, (1,), generator=generator))
        samples.append({"ids": ids, "loss": [t >= prompt for t in range(length)]})
    return samples


def norm_in_own_dtype(self, x):
    """transformers normalises in float32 whatever the input; against float64 that would be the error measured."""
    epsilon = getattr(self, "variance_epsilon", None) or self.eps
    return self.weight * (x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + epsilon))


def load_peft(model_dir, adapter_dir, dtype, device="cpu"):
    """In float64 it belongs on the CPU: transformers computes rope's angles in float32, on a GPU 3e-7 away from ours."""
    base = transformers.AutoModelForCausalLM.from_pretrained(model_dir, attn_implementation="sdpa")
    model = PeftModel.from_pretrained(base, adapter_dir, is_trainable=True).to(device, dtype)
    if dtype == torch.float64:
        for module in model.modules():
            if type(module).__name__.endswith("RMSNorm"):
                module.forward = norm_in_own_dtype.__get__(module)
    return model.eval()  # no dropout; gradients all the same


def loss_sum(model, sample, embeddings):
    logits = model(inputs_embeds=embeddings[None], use_cache=False).logits[0]
    rows = [t for t in range(len(sample["ids"]) - 1) if sample["loss"][t + 1]]
    targets = torch.tensor([sample["ids"][t + 1] for t in rows], device=logits.device)
    picked = logits[rows]
    return torch.nn.functional.cross_entropy(picked, targets, reduction="sum"), logits


class GivenMask(torch.nn.Module):
    """In the place of a layer's dropout."""

    mask = None

    def forward(self, x):
        return x * self.mask


def use_masks(model, masks, samples):
    """Lets PEFT use `masks`, {"<step>.<module>": [tokens of all samples, inputs]}: a hook for train_peft."""
    layers = {n.removeprefix("base_model.model."): m for n, m in model.named_modules() if isinstance(m, LoraLayer)}
    for layer in layers.values():
        layer.lora_dropout["default"] = GivenMask()
    ends = list(itertools.accumulate(len(sample["ids"]) for sample in samples))

    def before_sample(step, index):
        rows = slice(ends[index] - len(samples[index]["ids"]), ends[index])
        for name, layer in layers.items():
            layer.lora_dropout["default"].mask = masks[f"{step}.{name}"][rows]

    return before_sample


def train_peft(model, samples, steps, learning_rate, before_sample=lambda step, index: None):
    """The mean-token loss of all samples, step after step; one sample at a time, so that nothing can leak between them.

    It runs where the model lies and returns tensors on the CPU.
    """
    trainable = {n: p for n, p in model.named_parameters() if p.requires_grad}
    optimizer = torch.optim.AdamW(trainable.values(), lr=learning_rate, weight_decay=0.0)
    total = sum(sum(s["loss"][1:]) for s in samples)
    table = model.get_input_embeddings().weight.detach()
    result = {"losses": []}
    for step in range(steps):
        optimizer.zero_grad()
        loss, embeddings, logits = 0.0, [], []
        for index, sample in enumerate(samples):
            before_sample(step, index)
            x = table[sample["ids"]].clone().requires_grad_()
            part, sample_logits = loss_sum(model, sample, x)
            (part / total).backward()
            loss += float(part.detach()) / total
            embeddings.append(x.grad)
            logits.append(sample_logits.detach())
        if step == 0:
            result["dembedding"], result["logits"] = torch.cat(embeddings), torch.cat(logits)
            result |= {f"grad.{peft_key(n)}": p.grad.clone() for n, p in trainable.items()}
        result["losses"].append(loss)
        optimizer.step()
    result |= {f"final.{peft_key(n)}": p.detach().clone() for n, p in trainable.items()}
    return {key: value.cpu() if isinstance(value, torch.Tensor) else value for key, value in result.items()}


def peft_key(parameter_name):
    return parameter_name.replace(".default", "")


def write_request(path, model_dir, adapter_dir, samples, **options):
    request = dict(model=str(model_dir), adapter=str(adapter_dir), samples=samples, device=DEVICE)
    path.write_text(json.dumps(request | options))
    return path
