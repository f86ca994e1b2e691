"""What a step would take if each class of work ran at the hardware's rate: FLOP over TFLOP/s, or bytes over TB/s.

Of the trace's facts: a Llama shape, LoRA of rank r on all seven linear layers, 16-bit activations and weights, float32
adapters; the blocks' weights in float8 or NF4 where base_dtype says so. N tokens, C channels, I intermediate size; a
layer's linear groups are q k v, o, gate up, down.
"""

from dataclasses import dataclass

NF4_BYTES = 8464 / 16384  # a weight, of a span: codes, maxima, scale and offset
ADAMW_BYTES = 34  # a parameter: reads it, its gradient (twice: clipping), two moments; writes three, and a 16-bit copy


@dataclass(frozen=True)
class Rates:
    """What the hardware reaches: TFLOP/s of 16-bit and of float8 GEMMs, TB/s of memory."""

    tflops: float = 790.0
    tbs: float = 4.2
    float8_tflops: float = 1500.0


def groups(facts):
    """(inputs, outputs, matrices) of each linear group of a layer."""
    c, i, head = facts["hidden_size"], facts["intermediate_size"], facts["head_dim"]
    q, kv = facts["num_attention_heads"] * head, facts["num_key_value_heads"] * head
    return {"qkv": (c, q + 2 * kv, 3), "o": (q, c, 1), "gate_up": (c, 2 * i, 2), "down": (i, c, 1)}


def recomputed(facts):
    """The groups whose forward product runs again, whether attention does, and how many norms a layer do."""
    return {
        "save": ((), False, 0),
        "recompute_mlp": (("gate_up",), False, 1),
        "recompute_block": (("qkv", "o", "gate_up"), True, 2),
        "offload": (("qkv", "o", "gate_up"), True, 2),
    }[facts["activations"]]


def adapter_parameters(facts):
    """r columns or rows a matrix's inputs and outputs."""
    each = (inputs * matrices + outputs for inputs, outputs, matrices in groups(facts).values())
    return facts["lora_r"] * facts["num_hidden_layers"] * sum(each)


def of_products(facts, size):
    """(forward, backward) sums of a group's size over all products with the blocks' weights.

    What is recomputed counts as forward; no gradient is wanted below the first layer's q, k, v.
    """
    again = sum(size[name] for name in recomputed(facts)[0])
    layers, once = facts["num_hidden_layers"], sum(size.values())
    return layers * (once + again), layers * once - size["qkv"]


def weights(facts):
    """Elements of each linear group of a layer."""
    return {name: inputs * outputs for name, (inputs, outputs, _) in groups(facts).items()}


def frozen_flop(facts, tokens, learned):
    """(blocks, head) of the products with frozen weights."""
    head = 2 * facts["vocab_size"] * facts["hidden_size"]
    return 2 * tokens * sum(of_products(facts, weights(facts))), 2 * learned * head


def stored_bytes(facts, tokens):
    """By class, what a base costs beside its products that is not stored as it is multiplied."""
    forward, backward = of_products(facts, weights(facts))
    if facts.get("base_dtype") == "nf4":
        return {"expansion of NF4": (forward + backward) * (NF4_BYTES + 2)}
    if facts.get("base_dtype") != "float8":
        return {}
    inputs, _ = of_products(facts, {name: i for name, (i, _, _) in groups(facts).items()})
    _, outputs = of_products(facts, {name: o for name, (_, o, _) in groups(facts).items()})
    return {
        "row quantising": tokens * (inputs + outputs) * (2 + 1),  # reads 16 bits, writes 8
        "transposes of weights": backward * (1 + 1),
    }


def shares_passes(facts):
    """Whether low-rank terms of the MLP are made in SwiGLU's passes: trainer/kernels/gpu_low_rank.h."""
    return facts["lora_r"] in (8, 16)


def adapter_bytes(facts, tokens):
    """Of the products with A and B, a layer's groups each; what is as wide as the MLP may share SwiGLU's passes."""
    again = recomputed(facts)[0]
    of_group = shared_passes if shares_passes(facts) else own_passes
    parts = (of_group(name, *group[:2]) for name, group in groups(facts).items())
    total = sum(f * (2 if name in again else 1) + b for name, (f, b) in zip(groups(facts), parts, strict=True))
    return 2 * tokens * facts["num_hidden_layers"] * total


def own_passes(_, inputs, outputs):
    """Elements a token, forward and backward, of passes that add to what is there: x A, + S B, dB, dS, dA, + dS A."""
    return inputs + 2 * outputs, 2 * outputs + 3 * inputs


def shared_passes(name, inputs, outputs):
    """The same where S B and dS A are written before the frozen product adds to them, and dS and dB read dy once."""
    term = {"qkv": outputs, "o": 2 * outputs, "gate_up": 0, "down": 2 * outputs}[name]  # o's and down's with a residual
    x, dy = (0 if name == "down" else inputs), (0 if name == "gate_up" else outputs)
    return x + term, dy + 2 * x


def attention_flop(facts, tokens):
    """(forward, backward): a query sees half of its sample; FlashAttention's backward makes 5 products of forward's 2."""
    width = facts["num_attention_heads"] * facts["head_dim"]
    each = tokens * facts["sequence_length"] * width * facts["num_hidden_layers"]
    return (4 if recomputed(facts)[1] else 2) * each, 5 * each


def row_bytes(facts, tokens, learned):
    """(norms, rotary, SwiGLU, cross entropy): each reads its inputs and writes its outputs once."""
    layers, c = facts["num_hidden_layers"], facts["hidden_size"]
    _, attention_again, norms_again = recomputed(facts)
    rotated = (facts["num_attention_heads"] + facts["num_key_value_heads"]) * facts["head_dim"]
    swiglu = 3 + 5 + (0 if shares_passes(facts) else 3)  # forward, backward, and h again for dA
    norms = 2 * (2 + 4) + 2 * norms_again  # twice forward, and backward, which adds to a gradient
    return (
        2 * c * (tokens * layers * norms + learned * 5),
        2 * tokens * layers * rotated * (6 if attention_again else 4),
        2 * tokens * layers * facts["intermediate_size"] * swiglu,
        2 * learned * facts["vocab_size"] * 2,
    )


def ideal_seconds(facts, rates):
    """By class of step_profile.py; a class that is not named need not be."""
    samples = facts["micro_batch"]
    tokens, learned = samples * facts["sequence_length"], samples * (facts["sequence_length"] - 1)
    flop, byte = 1e-12 / rates.tflops, 1e-12 / rates.tbs
    blocks, head = frozen_flop(facts, tokens, learned)
    block_flop = 1e-12 / (rates.float8_tflops if facts.get("base_dtype") == "float8" else rates.tflops)
    forward, backward = attention_flop(facts, tokens)
    norms, rotary, swiglu, loss = row_bytes(facts, tokens, learned)
    return {
        "large GEMMs": blocks * block_flop + head * flop,
        "LoRA": adapter_bytes(facts, tokens) * byte,
        "attention forward": forward * flop,
        "attention backward": backward * flop,
        "norms": norms * byte,
        "rotary": rotary * byte,
        "SwiGLU": swiglu * byte,
        "cross entropy": loss * byte,
        "optimizer": adapter_parameters(facts) * ADAMW_BYTES * byte,
        **{kind: count * byte for kind, count in stored_bytes(facts, tokens).items()},
    }
