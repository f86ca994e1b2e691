"""What comes back of a weight that is packed: {model.base_dtype: weight -> weight}."""

import torch


def float8_rows(x):
    """Each row scaled to the largest number of e4m3 and rounded: codes as numbers, and the scales, in float32."""
    largest = x.float().abs().amax(-1, keepdim=True)
    largest[largest == 0] = 448
    to_codes = torch.full_like(largest, 448) / largest  # 448 / largest would be torch's reciprocal, rounded, times 448
    return (x.float() * to_codes).to(torch.float8_e4m3fn).float(), largest / 448


def in_float8(weight):
    codes, scales = float8_rows(weight)
    return codes * scales


def in_nf4(weight):
    """`weight` through bitsandbytes' NF4 and back, in float32.

    Its operations one by one, because on CPUs quantize_4bit takes a float32 mean of the maxima, which depends on the
    number of threads, and finds their codes in a coarse table of places; in float64 it takes the nearest code, as its
    CUDA kernel does. Flat, because on CPUs dequantize_4bit begins a block with each row.
    """
    from bitsandbytes import functional  # not on every host with a GPU

    codes, state = functional.quantize_4bit(weight.float().flatten(), blocksize=64, quant_type="nf4")
    offset = state.absmax.double().mean().float()
    table = functional.create_dynamic_map()
    maxima, scales = torch.ops.bitsandbytes.quantize_blockwise((state.absmax - offset).double(), table, 256)
    state.absmax = functional.dequantize_blockwise(maxima, absmax=scales, code=table, blocksize=256) + offset
    return functional.dequantize_4bit(codes, state).view_as(weight)


FORMATS = {"nf4": in_nf4, "float8": in_float8}


def linear_weights(model):
    """Of the blocks: not the head."""
    return {n: p for n, p in model.named_parameters() if ".layers." in n and n.endswith("_proj.weight")}


def save_packed(directory, base, base_dtype):
    """The model with what comes back of its linear weights in their place."""
    with torch.no_grad():
        for weight in linear_weights(base).values():
            weight.copy_(FORMATS[base_dtype](weight))
    base.save_pretrained(directory)
    return directory
