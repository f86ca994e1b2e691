"""What a step would take if each class of work ran at the hardware's rate: FLOP over TFLOP/s, or bytes over TB/s.

Of the trace's facts: a Llama shape, LoRA of rank r on all seven linear layers, 16-bit activations and weights, float32
adapters. N tokens, C channels, I intermediate size; a layer's linear groups are q k v, o, gate up, down.
"""

ADAMW_BYTES = 34  # a parameter: reads it, its gradient (twice: clipping), two moments; writes three, and a 16-bit copy


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
    }[facts["activations"]]


def adapter_parameters(facts):
    """r columns or rows a matrix's inputs and outputs."""
    each = (inputs * matrices + outputs for inputs, outputs, matrices in groups(facts).values())
    return facts["lora_r"] * facts["num_hidden_layers"] * sum(each)


def frozen_flop(facts, tokens, learned):
    """Of the products with frozen weights; none for a gradient below the first layer's q, k, v."""
    size = {name: inputs * outputs for name, (inputs, outputs, _) in groups(facts).items()}
    again = sum(size[name] for name in recomputed(facts)[0])
    layers = facts["num_hidden_layers"] * (2 * sum(size.values()) + again) - size["qkv"]
    head = 2 * facts["vocab_size"] * facts["hidden_size"]
    return 2 * (tokens * layers + learned * head)


def adapter_bytes(facts, tokens):
    """Of the products with A and B as passes of their own that add to what is there: x A, + S B, dB, dS, dA, + dS A."""
    forward, backward, again = 0, 0, recomputed(facts)[0]
    for name, (inputs, outputs, _) in groups(facts).items():
        forward += (inputs + 2 * outputs) * (2 if name in again else 1)
        backward += 2 * outputs + 3 * inputs
    return 2 * tokens * facts["num_hidden_layers"] * (forward + backward)


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
    norms = 2 * (2 + 2 + 4) + 2 * norms_again  # twice forward, again for dA, and backward, which adds to a gradient
    return (
        2 * c * (tokens * layers * norms + learned * 5),
        2 * tokens * layers * rotated * (6 if attention_again else 4),
        2 * tokens * layers * facts["intermediate_size"] * (3 + 3 + 5),  # forward, again for dA, and backward
        2 * learned * facts["vocab_size"] * 2,
    )


def ideal_seconds(facts, tflops, tbs):
    """By class of step_profile.py; a class that is not named need not be."""
    samples = facts["micro_batch"]
    tokens, learned = samples * facts["sequence_length"], samples * (facts["sequence_length"] - 1)
    flop, byte = 1e-12 / tflops, 1e-12 / tbs
    forward, backward = attention_flop(facts, tokens)
    norms, rotary, swiglu, loss = row_bytes(facts, tokens, learned)
    return {
        "large GEMMs": frozen_flop(facts, tokens, learned) * flop,
        "LoRA GEMMs": adapter_bytes(facts, tokens) * byte,
        "attention forward": forward * flop,
        "attention backward": backward * flop,
        "norms": norms * byte,
        "rotary": rotary * byte,
        "SwiGLU": swiglu * byte,
        "cross entropy": loss * byte,
        "optimizer": adapter_parameters(facts) * ADAMW_BYTES * byte,
    }
