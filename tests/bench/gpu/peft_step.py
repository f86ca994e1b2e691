"""The peer of the GPU benchmark: training steps of LoRA by PEFT and transformers, as a raw loop without a trainer.

A Llama of a named shape with random bfloat16 weights, LoRA r 16 on the seven linear layers, one batch of random tokens
that are all labels, gradients clipped to a norm of 1, fused AdamW. One process, or with --fsdp one a GPU under torchrun
or mpirun, each with a batch of its own and the model sharded by FSDP2, a group a decoder layer. On demand with what
other packages make faster or smaller (peer_packages.py). Prints one line of JSON.
"""

import argparse
import json
import os
import time
import warnings

import torch
import torch.distributed as dist
from peer_packages import (
    PACKAGES,
    allocate_nf4,
    apply_liger,
    missing,
    multiply_in_float8,
    unsloth_model,
    with_nf4_layers,
)
from peft import LoraConfig, get_peft_model
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor
from transformers import LlamaConfig, LlamaForCausalLM

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
LINEAR = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
LORA = LoraConfig(r=16, lora_alpha=32, target_modules=LINEAR, task_type="CAUSAL_LM")


def shape(hidden, layers, heads, kv_heads, intermediate, vocabulary=128256, tied=False):
    return dict(
        hidden_size=hidden,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=kv_heads,
        intermediate_size=intermediate,
        vocab_size=vocabulary,
        tie_word_embeddings=tied,
    )


SHAPES = {
    "tiny": shape(64, 4, 4, 2, 160, vocabulary=512),
    "1b": shape(2048, 16, 32, 8, 8192, tied=True),
    "8b": shape(4096, 32, 32, 8, 14336),
    "70b": shape(8192, 80, 64, 8, 28672),
}


def llama_config(name, layers=None, **more):
    settings = SHAPES[name] | ({"num_hidden_layers": layers} if layers else {}) | more
    rope = {"rope_type": "default", "rope_theta": 500000.0}
    return LlamaConfig(**settings, rope_parameters=rope, max_position_embeddings=131072)


def add_packages(parser):
    parser.add_argument(
        "--liger", choices=["loss", "all"], help="Liger's fused loss alone, or norms, rotary, SwiGLU too"
    )
    base = parser.add_mutually_exclusive_group()
    base.add_argument("--float8", action="store_true", help="frozen layers multiplied by torchao, tensorwise")
    base.add_argument("--nf4", action="store_true", help="frozen layers stored by bitsandbytes, double quantisation")
    parser.add_argument("--unsloth", action="store_true", help="its kernels, compilation and loss: one GPU")


def parse():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--shape", choices=SHAPES, default="8b", help="of Llama 3.1 and 3.2; tiny: to try this script")
    parser.add_argument("--layers", type=int, help="fewer than the shape has")
    parser.add_argument("--adapters", choices=DTYPES, default="float32", help="float32 is what PEFT makes of them")
    parser.add_argument("--micro-batch", type=int, default=4, help="sequences a process and step")
    parser.add_argument("--sequence-length", type=int, default=2048)
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--warm-up", type=int, default=5, help="steps before those, not counted")
    parser.add_argument("--compile", action="store_true", help="each decoder layer: compiled once for all of them")
    parser.add_argument("--checkpointing", action="store_true", help="recompute each decoder layer")
    parser.add_argument("--fsdp", action="store_true")
    parser.add_argument("--device", choices=["cuda", "cpu"], default="cuda")
    add_packages(parser)
    options = parser.parse_args()
    for option in PACKAGES:
        if getattr(options, option) and (package := missing(option)):
            parser.error(f"--{option}: a package is missing: pip install {package}")
    if options.nf4 and options.fsdp:
        parser.error("--nf4 is for one process")
    others = ("compile", "checkpointing", "fsdp", *(option for option in PACKAGES if option != "unsloth"))
    if options.unsloth and (any(getattr(options, option) for option in others) or options.adapters != "float32"):
        parser.error("--unsloth goes with none of the others, and its adapters are float32")
    if options.unsloth and options.device == "cpu":
        parser.error("--unsloth wants a GPU")
    return options


def join_processes(device):
    """The process group of torchrun or mpirun, one GPU each."""
    local = os.environ.get("LOCAL_RANK", os.environ.get("OMPI_COMM_WORLD_LOCAL_RANK", "0"))
    for name, of_mpirun, alone in (("RANK", "RANK", "0"), ("WORLD_SIZE", "SIZE", "1")):
        os.environ.setdefault(name, os.environ.get(f"OMPI_COMM_WORLD_{of_mpirun}", alone))
    os.environ.setdefault("MASTER_ADDR", "127.0.0.1")
    os.environ.setdefault("MASTER_PORT", "29517")
    if device == "cuda":
        torch.cuda.set_device(int(local))
    dist.init_process_group("nccl" if device == "cuda" else "gloo")


def meta_model(options):
    """Weights without memory: no process ever holds more of the model than it keeps."""
    config = llama_config(options.shape, options.layers, attn_implementation="sdpa")
    with torch.device("meta"):
        model = LlamaForCausalLM(config).to(torch.bfloat16)
        model = get_peft_model(with_nf4_layers(model) if options.nf4 else model, LORA)
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data = parameter.data.to(DTYPES[options.adapters])
    return model


def decoder(model):
    return model.base_model.model.model


@torch.no_grad()
def materialise(model, options):
    """Random weights where the model, or this process's part of it, is to be."""
    device = options.device
    allocate_nf4(model, device) if options.nf4 else model.to_empty(device=device)
    model.base_model.model.tie_weights()
    for name, parameter in model.named_parameters():
        local = parameter.to_local() if isinstance(parameter, DTensor) else parameter
        if not local.is_floating_point():
            continue  # NF4
        if "norm" in name:
            local.fill_(1)
        elif "lora_B" in name:
            local.zero_()
        elif "lora_A" in name:
            torch.nn.init.kaiming_uniform_(local, a=5**0.5)  # as PEFT and we draw it
        else:
            local.normal_(std=0.02)
    rotary = decoder(model).rotary_emb
    decoder(model).rotary_emb = type(rotary)(config=rotary.config).to(device)


def make_model(options):
    if options.unsloth:
        config = llama_config(options.shape, options.layers, attn_implementation="sdpa")
        return unsloth_model(config, LORA, options).train()
    if options.liger:
        apply_liger(options.liger)
    model = meta_model(options)
    if options.float8:
        multiply_in_float8(model, options.device)
    layers = decoder(model).layers
    if options.checkpointing:
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    if options.compile:
        for layer in layers:
            layer.compile()
    if options.fsdp:
        mesh = dist.device_mesh.init_device_mesh(options.device, (dist.get_world_size(),))
        for layer in layers:
            fully_shard(layer, mesh=mesh)
        fully_shard(model, mesh=mesh)
    materialise(model, options)
    model.train()
    return model


def make_batch(options, rank):
    generator = torch.Generator().manual_seed(17 + rank)
    size = (options.micro_batch, options.sequence_length)
    return torch.randint(SHAPES[options.shape]["vocab_size"], size, generator=generator).to(options.device)


def loss_of(model, ids, options):
    output = model(input_ids=ids, labels=ids, use_cache=False)
    if options.liger and output.logits is not None:
        raise RuntimeError("these transformers do not call Liger's fused loss")
    return output.loss


def train(model, ids, options):
    """The loss of every step, and the seconds that the counted ones took."""
    trainable = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trainable, lr=1e-4, fused=True)
    synchronize = torch.cuda.synchronize if options.device == "cuda" else lambda: None
    losses = []
    for step in range(options.warm_up + options.steps):
        if step == options.warm_up:
            synchronize()
            began = time.perf_counter()
        loss = loss_of(model, ids, options)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(trainable, 1.0)
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.detach())
    synchronize()
    return [loss.item() for loss in losses], time.perf_counter() - began


def memory(device):
    """GiB: the highest of this process's tensors, and what the driver has given away now."""
    if device == "cpu":
        return {"peak_gib": None, "driver_gib": None}
    free, total = torch.cuda.mem_get_info()
    return {"peak_gib": torch.cuda.max_memory_allocated() / 2**30, "driver_gib": (total - free) / 2**30}


def of_all_ranks(result):
    """The slowest and largest of them, and rank 0's loss."""
    results = [None] * dist.get_world_size()
    dist.all_gather_object(results, result)
    for key in ("step_seconds_mean", "peak_gib", "driver_gib"):
        result[key] = max((one[key] for one in results if one[key] is not None), default=None)
    return result


def main():
    options = parse()
    warnings.filterwarnings("ignore", category=FutureWarning)
    if options.fsdp:
        join_processes(options.device)
    ranks, rank = (dist.get_world_size(), dist.get_rank()) if options.fsdp else (1, 0)
    torch.manual_seed(17 + rank)
    model = make_model(options)
    losses, seconds = train(model, make_batch(options, rank), options)
    result = {
        "peer": "unsloth" if options.unsloth else "peft+fsdp2" if options.fsdp else "peft",
        "shape": options.shape,
        "ranks": ranks,
        "adapters": options.adapters,
        "compile": options.compile,
        "checkpointing": options.checkpointing,
        "liger": options.liger,
        "float8": options.float8,
        "nf4": options.nf4,
        "step_seconds_mean": seconds / options.steps,
        **memory(options.device),
        "loss": losses,
    }
    if options.fsdp:
        result = of_all_ranks(result)
        dist.destroy_process_group()
    result["tokens_per_second_per_gpu"] = options.micro_batch * options.sequence_length / result["step_seconds_mean"]
    if rank == 0:
        print(json.dumps(result), flush=True)


if __name__ == "__main__":
    main()
