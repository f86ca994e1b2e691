"""The rows of the GPU benchmark and what is wanted of each: 8,192 tokens a micro-batch, LoRA r 16 on all linear layers."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Case:
    """One row: a stack's arguments, and what is wanted of it. {files} stands for a directory of random_model.py."""

    name: str
    stack: str  # "rankwise" or "peft"
    ranks: int
    arguments: str
    gpu: int = 0  # the first of the host's that it uses
    tokens_per_second: int = 0  # a GPU, at least
    peak_gib: float = 0  # at most
    first_step_seconds: float = 0  # from the start of the process, at most
    loaded_gb_per_second: float = 0  # a rank, at least
    plan_within: float = 0  # part of the peak by which the memory plan may be off
    share_of: tuple = ()  # ((name of another row, least ratio to its tokens/s, or None), ...)


def rankwise(name, ranks, arguments, **wanted):
    return Case(name, "rankwise", ranks, arguments, **wanted)


def peft(name, ranks, arguments):
    return Case(name, "peft", ranks, arguments)


def scaled(ranks, share):
    """8B and 70B on so many GPUs: beside one GPU, and 70B beside two."""
    wanted = dict(share_of=(("8b", share),), plan_within=0.03)
    shape = "--shape 8b --activations save"
    yield rankwise(f"8b-replicate-{ranks}", ranks, f"{shape} --base replicate", **wanted)
    yield rankwise(f"8b-shard-{ranks}", ranks, f"{shape} --base shard --resident-gib 0", **wanted)
    if ranks > 2:
        yield rankwise(f"8b-hybrid-{ranks}", ranks, f"{shape} --base hybrid --shard-group 2 --resident-gib 0", **wanted)
    yield rankwise(f"8b-resident-{ranks}", ranks, f"{shape} --base shard --resident-gib 16", **wanted)
    beside_two = dict(share_of=(("70b-shard-2", share),)) if ranks > 2 else {}
    large = "--shape 70b --activations recompute_block --base shard"
    yield rankwise(f"70b-shard-{ranks}", ranks, large, plan_within=0.03, **beside_two)


# Neighbours are compared: a round goes through them in this order, so that they meet the same minute of the machine.
CASES = [
    rankwise(
        "8b", 1, "--shape 8b --base replicate --activations save", tokens_per_second=12_800, peak_gib=64,
        first_step_seconds=30, share_of=(("peft-8b-bf16", 1.0),),
    ),
    peft("peft-8b-bf16", 1, "--shape 8b --adapters bfloat16"),
    peft("peft-8b-bf16-compile", 1, "--shape 8b --adapters bfloat16 --compile"),
    peft("peft-8b", 1, "--shape 8b"),
    rankwise(
        "8b-deterministic", 1, "--shape 8b --base replicate --activations save --deterministic", share_of=(("8b", None),)
    ),
    rankwise("8b-files", 1, "--model {files} --base replicate --activations save", loaded_gb_per_second=3),
    rankwise(
        "8b-recompute-mlp", 1, "--shape 8b --base replicate --activations recompute_mlp",
        share_of=(("peft-8b-bf16-checkpointing", 1.0),),
    ),
    rankwise(
        "8b-recompute", 1, "--shape 8b --base replicate --activations recompute_block", tokens_per_second=9_300,
        peak_gib=26, share_of=(("peft-8b-bf16-checkpointing", 1.0),),
    ),
    peft("peft-8b-bf16-checkpointing", 1, "--shape 8b --adapters bfloat16 --checkpointing"),
    peft("peft-8b-bf16-compile-checkpointing", 1, "--shape 8b --adapters bfloat16 --compile --checkpointing"),
    rankwise("1b", 1, "--shape 1b --base replicate --activations save --micro-batch 8", share_of=(("peft-1b-bf16", 1.0),)),
    peft("peft-1b-bf16", 1, "--shape 1b --adapters bfloat16 --micro-batch 8"),
    rankwise("8b-replicate", 2, "--shape 8b --base replicate --activations save", share_of=(("8b", None),)),
    rankwise(
        "8b-shard", 2, "--shape 8b --base shard --activations save --resident-gib 0",
        share_of=(("8b", 0.95), ("8b-replicate", None), ("peft-8b-fsdp2", 1.0)),
    ),
    peft("peft-8b-fsdp2", 2, "--shape 8b --adapters bfloat16 --fsdp"),
    rankwise(
        "8b-shard-resident", 2, "--shape 8b --base shard --activations save --resident-gib 16",
        share_of=(("8b", 0.99), ("8b-replicate", None), ("peft-8b-fsdp2", 1.0)),
    ),
    rankwise("8b-shard-files", 2, "--model {files} --base shard --activations save", loaded_gb_per_second=3),
    rankwise(
        "8b-shard-recompute", 2, "--shape 8b --base shard --activations recompute_block --resident-gib 0",
        share_of=(("peft-8b-fsdp2-checkpointing", 1.0),),
    ),
    peft("peft-8b-fsdp2-checkpointing", 2, "--shape 8b --adapters bfloat16 --fsdp --checkpointing"),
    rankwise(
        "70b-shard", 2, "--shape 70b --base shard --activations recompute_block", tokens_per_second=1_300, peak_gib=125,
        share_of=(("peft-70b-fsdp2", 1.0),),
    ),
    rankwise(
        "70b-shard-offload", 2, "--shape 70b --base shard --activations recompute_block --cpu-offload",
        tokens_per_second=1_300, peak_gib=125, share_of=(("peft-70b-fsdp2", 1.0),),
    ),
    peft("peft-70b-fsdp2", 2, "--shape 70b --adapters bfloat16 --fsdp --checkpointing"),
]  # fmt: skip

# One GPU and more of one host. What is left of one GPU's rate: 98 % on two, 97 on four, 95 on eight.
SCALING = [
    rankwise("8b", 1, "--shape 8b --base replicate --activations save", plan_within=0.03),
    *scaled(2, 0.98),
    *scaled(4, 0.97),
    *scaled(8, 0.95),
]

ONE_SHORT = (
    "--shape 1b --base replicate --activations save --micro-batch 1 --sequence-length 512 --warm-up 20 --steps 60"
)
ONE_8B, ONE_PEER = "--shape 8b --base replicate", "--shape 8b --adapters bfloat16"


def stored(name, ranks, arguments, **wanted):
    return rankwise(name, ranks, arguments, plan_within=0.03, **wanted)


# The base in bfloat16, float8 and NF4, each beside what PEFT reaches with Liger, torch.compile, torchao, bitsandbytes,
# and in bfloat16 beside Unsloth.
BASES = [
    stored(
        "8b", 1, f"{ONE_8B} --activations save", tokens_per_second=20_000, peak_gib=41, first_step_seconds=8,
        share_of=(("peft-8b-liger-compile", 1.2), ("unsloth-8b", 1.2), ("peft-8b-liger", None)),
    ),
    peft("peft-8b-liger-compile", 1, f"{ONE_PEER} --compile --liger loss"),
    peft("unsloth-8b", 1, "--shape 8b --unsloth"),
    peft("peft-8b-liger", 1, f"{ONE_PEER} --liger all"),
    stored(
        "8b-float8", 1, f"{ONE_8B} --base-dtype float8 --activations save", tokens_per_second=28_000, peak_gib=34,
        share_of=(("peft-8b-float8-liger-compile", 1.0), ("8b", None)),
    ),
    peft("peft-8b-float8-liger-compile", 1, f"{ONE_PEER} --compile --liger loss --float8"),
    stored(
        "8b-nf4", 1, f"{ONE_8B} --base-dtype nf4 --activations save", tokens_per_second=17_000, peak_gib=32,
        share_of=(("peft-8b-nf4-liger-compile", None), ("8b", None)),
    ),
    peft("peft-8b-nf4-liger-compile", 1, f"{ONE_PEER} --compile --liger loss --nf4"),
    stored("8b-recompute-mlp", 1, f"{ONE_8B} --activations recompute_mlp", share_of=(("8b", None),)),
    stored(
        "8b-float8-recompute-mlp", 1, f"{ONE_8B} --base-dtype float8 --activations recompute_mlp",
        share_of=(("8b-float8", None),),
    ),
    stored(
        "8b-nf4-recompute-mlp", 1, f"{ONE_8B} --base-dtype nf4 --activations recompute_mlp",
        share_of=(("8b-nf4", None),),
    ),
    stored(
        "8b-recompute", 1, f"{ONE_8B} --activations recompute_block", tokens_per_second=13_500, peak_gib=19,
        share_of=(("peft-8b-liger-compile-checkpointing", None),),
    ),
    stored(
        "8b-offload", 1, f"{ONE_8B} --activations offload", tokens_per_second=13_000, peak_gib=17,
        share_of=(("8b-recompute", None),),
    ),
    peft("peft-8b-liger-compile-checkpointing", 1, f"{ONE_PEER} --compile --liger loss --checkpointing"),
    stored(
        "8b-float8-recompute", 1, f"{ONE_8B} --base-dtype float8 --activations recompute_block",
        share_of=(("8b-recompute", None),),
    ),
    stored(
        "8b-nf4-recompute", 1, f"{ONE_8B} --base-dtype nf4 --activations recompute_block", tokens_per_second=12_000,
        peak_gib=9.5, share_of=(("8b-recompute", None),),
    ),
    stored("8b-half", 1, f"{ONE_8B} --activations save --layers 16"),  # beside 8b: what a layer keeps
    stored(  # a round through the batches before anything is measured
        "8b-packed", 1, f"{ONE_8B} --activations save --shortest 50 --warm-up 8 --steps 16", share_of=(("8b", 0.95),)
    ),
    stored(
        "8b-nf4-offload", 1, f"{ONE_8B} --base-dtype nf4 --activations offload", tokens_per_second=11_500,
        peak_gib=7.5, share_of=(("8b-nf4-recompute", None),),
    ),
    # Without CUDA graphs; and where the host is slower than the GPU.
    stored("8b-by-kernel", 1, f"{ONE_8B} --activations save --no-cuda-graphs", share_of=(("8b", None),)),
    stored(
        "8b-float8-by-kernel", 1, f"{ONE_8B} --base-dtype float8 --activations save --no-cuda-graphs",
        share_of=(("8b-float8", None),),
    ),
    stored(
        "8b-nf4-by-kernel", 1, f"{ONE_8B} --base-dtype nf4 --activations save --no-cuda-graphs",
        share_of=(("8b-nf4", None),),
    ),
    stored("1b-short", 1, ONE_SHORT),
    stored("1b-short-by-kernel", 1, f"{ONE_SHORT} --no-cuda-graphs", share_of=(("1b-short", None),)),
    stored(
        "70b-nf4", 1, "--shape 70b --base replicate --base-dtype nf4 --activations recompute_block --micro-batch 2",
        tokens_per_second=1_200, peak_gib=60,
    ),
]  # fmt: skip

# The same on two GPUs, beside one.
SHARDED = [
    stored("8b", 1, f"{ONE_8B} --activations save"),
    # The two differ, and what they do together has the pace of the slower one.
    stored("8b-other-gpu", 1, f"{ONE_8B} --activations save", gpu=1, share_of=(("8b", None),)),
    stored(
        "8b-shard", 2, "--shape 8b --base shard --activations save --resident-gib 0",
        share_of=(("8b", 0.98), ("8b-other-gpu", None), ("8b-replicate", None)),
    ),
    stored("8b-replicate", 2, "--shape 8b --base replicate --activations save", share_of=(("8b", None),)),
    stored("8b-resident", 2, "--shape 8b --base shard --activations save --resident-gib 16", share_of=(("8b", 0.98),)),
    stored("8b-float8", 1, f"{ONE_8B} --base-dtype float8 --activations save"),
    stored(
        "8b-float8-shard", 2, "--shape 8b --base shard --base-dtype float8 --activations save --resident-gib 0",
        share_of=(("8b-float8", None),),
    ),
    stored("8b-nf4", 1, f"{ONE_8B} --base-dtype nf4 --activations save"),
    stored(
        "8b-nf4-shard", 2, "--shape 8b --base shard --base-dtype nf4 --activations save --resident-gib 0",
        share_of=(("8b-nf4", None),),
    ),
    stored("70b-shard-float8", 2, "--shape 70b --base shard --base-dtype float8 --activations recompute_block"),
    stored(  # two times 80 GB do not hold these two
        "70b-shard", 2, "--shape 70b --base shard --activations recompute_block", tokens_per_second=2_000, peak_gib=120,
    ),
    stored(
        "70b-shard-save", 2, "--shape 70b --base shard --activations save --micro-batch 1 --resident-gib 16",
        tokens_per_second=2_000, peak_gib=120,
    ),
    stored(  # two times 80 GB hold 70B so
        "70b-shard-tight", 2,
        "--shape 70b --base shard --activations offload --micro-batch 1 --prefetch 1 --resident-gib 0",
        tokens_per_second=2_000, peak_gib=120,
    ),
]  # fmt: skip

SUITES = {"peers": CASES, "scaling": SCALING, "bases": BASES, "sharded-bases": SHARDED}
