"""Where a step's time goes, out of traces: a made-up one of a GPU, one of the program on this machine's CPU, formulas."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tests/bench/gpu"))
from ideal import (  # noqa: E402
    Rates,
    adapter_bytes,
    adapter_parameters,
    attention_flop,
    frozen_flop,
    ideal_seconds,
    stored_bytes,
)
from step_profile import CLASSES, class_of, profile, table  # noqa: E402

BUILD = Path(os.environ.get("RANKWISE_BUILD", ROOT / "build/release"))
LLAMA_8B = dict(
    num_hidden_layers=32,
    hidden_size=4096,
    intermediate_size=14336,
    num_attention_heads=32,
    num_key_value_heads=8,
    head_dim=128,
    vocab_size=128256,
    lora_r=16,
    micro_batch=4,
    sequence_length=2048,
    activations="save",
)
RATES = Rates(tflops=790, tbs=4.2, float8_tflops=1500)
PRODUCTS = ("rankwise::sum_products",)
FLOAT8 = ("rankwise::float8_product_transposed",)
OURS = "void rankwise::(anonymous namespace)::"


@pytest.mark.parametrize(
    "kind, name, operators",
    [
        ("large GEMMs", "nvjet_tst_128x256_64x4_2x1_v_bz_coopA_TNT", (*PRODUCTS, "aten::mm")),
        ("large GEMMs", "nvjet_tst_128x256_64x4_2x1_v_bz_coopA_TNT", ()),
        ("large GEMMs", "rankwise::sum_products", PRODUCTS),
        ("large GEMMs", "nvjet_qqtst_128x128_128x6_4x1_v_bz_TNT", ("rankwise::float8_product", "aten::_scaled_mm")),
        ("large GEMMs", "a name that says nothing", (*PRODUCTS, "rankwise::wide_product", "rankwise::large_gemm")),
        ("large GEMMs", "nvjet_qqtst_128x256_128x4_2x1_v_bz_TNT", (*FLOAT8, "rankwise::large_gemm")),
        ("large GEMMs", "cutlass_3x_gemm_f8f8bf16_rowwise", (*FLOAT8, "aten::_scaled_mm")),
        ("row quantising", f"{OURS}quantise_rows<__nv_bfloat16>(rankwise::GpuFloat8Rows)", FLOAT8),
        ("transposes of weights", f"{OURS}transpose(rankwise::GpuByteTranspose)", FLOAT8),
        ("expansion of NF4", f"{OURS}expand<__nv_bfloat16>(rankwise::GpuNf4Expansion)", ()),
        ("copies and memsets", "transpose_readWrite_alignment_kernel", ("aten::copy_",)),
        ("LoRA", "nvjet_tst_256x128_64x4_1x2_h_bz_coopA_TNT", (*PRODUCTS, "rankwise::narrow_product", "aten::addmm")),
        (
            "large GEMMs",
            "nvjet_tst_256x128_64x4_1x2_h_badd_coopA_NNT",
            (*PRODUCTS, "rankwise::wide_product", "aten::addmm"),
        ),
        ("LoRA", f"{OURS}low_rank_add<1>(rankwise::GpuLowRankAdd)", ("rankwise::low_rank_add",)),
        ("LoRA", f"{OURS}add_column_parts(rankwise::GpuLowRankGradient)", ("rankwise::low_rank_gradient",)),
        ("SwiGLU", f"{OURS}add_column_parts<2>(rankwise::GpuLowRankMlp)", ("rankwise::low_rank_swiglu_backward",)),
        ("LoRA", "sm90_xmma_gemm_bf16bf16_bf16f32_f32_tn_n_tilesize64x64x64", ("aten::mm",)),
        ("LoRA", "void cublasLt::splitKreduce_kernel<32, 16, int>", ("aten::mm",)),
        ("attention forward", "cudnn_generated_fort_native_sdpa_sm90_flash_fprop_wgmma_f16_knob_7", ()),
        ("attention forward", "flash_fwd_kernel", ("rankwise::attention_forward", "aten::_flash_attention_forward")),
        ("attention backward", "cudnn_generated_fort_native_sdpa_sm90_flash_bprop_wgmma_f16_knob_5", ()),
        ("attention backward", "dq_convert", ("rankwise::attention_backward", "aten::_cudnn_attention_backward")),
        ("copies and memsets", "CatArrayBatchedCopy", ("rankwise::attention_backward", "aten::cat")),
        ("copies and memsets", "Memcpy DtoD (Device -> Device)", (*PRODUCTS, "aten::addmm")),
        ("norms", f"{OURS}rms_norm_backward<__nv_bfloat16>(rankwise::GpuRmsNormBackward)", ()),
        ("rotary", f"{OURS}rope<__nv_bfloat16, 8>(rankwise::GpuRope)", ("rankwise::rope",)),
        ("SwiGLU", f"{OURS}swiglu_backward<float>(rankwise::GpuSwigluBackward)", ()),
        ("cross entropy", "reduce_kernel", ("rankwise::cross_entropy", "aten::sum")),
        ("optimizer", f"{OURS}prepare(rankwise::AdamWPreparation)", ("rankwise::adamw",)),
        ("optimizer", "vectorized_elementwise_kernel", ("rankwise::compute_copies", "aten::copy_")),
        ("additions, other elementwise", "vectorized_elementwise_kernel", ("aten::add_",)),
        ("additions, other elementwise", "vectorized_elementwise_kernel", (*PRODUCTS, "aten::addmm")),
    ],
)
def test_class_of_a_kernel(kind, name, operators):
    assert class_of(name, operators) == kind


def host(name, begin, duration):
    return dict(ph="X", cat="cpu_op", name=name, pid=9, tid=9, ts=begin, dur=duration, args={})


def started(correlation, at):
    launch = dict(ph="X", cat="cuda_runtime", name="cudaLaunchKernel", pid=9, tid=9, ts=at, dur=0.5)
    return launch | {"args": {"correlation": correlation}}


def on_device(name, correlation, begin, duration, stream=7, cat="kernel"):
    event = dict(ph="X", cat=cat, name=name, pid=0, tid=stream, ts=begin, dur=duration)
    return event | {"args": {"correlation": correlation}}


def step_of_gpu(begin, correlation):
    """100 us of device time: 60 frozen, 20 of A and B, a gap of 5, 10 of a copy, another of 5; beside it 30 of NCCL."""
    c, device = correlation, begin + 1000
    return [
        host("rankwise::step", begin, 100),
        host("rankwise::sum_products", begin + 10, 10),
        host("aten::mm", begin + 11, 3),
        started(c, begin + 12),
        host("rankwise::narrow_product", begin + 14, 5),
        host("aten::addmm_", begin + 15, 3),
        started(c + 1, begin + 16),
        host("aten::copy_", begin + 30, 3),
        started(c + 2, begin + 31),
        started(c + 3, begin + 40),
        on_device("nvjet_large", c, device, 60),
        on_device("nvjet_small", c + 1, device + 60, 20),
        on_device("Memcpy DtoD (Device -> Device)", c + 2, device + 85, 10, cat="gpu_memcpy"),
        on_device("ncclDevKernel_AllGather_RING_LL", c + 3, device + 10, 30, stream=20),
    ]


@pytest.fixture
def trace():
    steps = [event for k in range(3) for event in step_of_gpu(100 * k, 10 * k)]
    steps[1]["dur"] = 12  # of the first step, which does not count
    flow = dict(ph="s", cat="ac2g", name="ac2g", pid=9, tid=9, ts=12, id=1)
    return {"traceEvents": [flow, *reversed(steps)], "rankwise": LLAMA_8B}


def test_time_of_the_compute_stream_by_class(trace):
    found = profile(trace)
    times = {kind: time for kind, time in found.time.items() if time}
    # The last step has no gap after it.
    assert (found.steps, found.step) == (2, pytest.approx(97.5))
    assert times == pytest.approx(
        {"large GEMMs": 60, "LoRA": 20, "copies and memsets": 10, "gaps": 7.5, "NCCL, other streams": 30}
    )
    assert found.count["large GEMMs"] == 1


def test_the_table_names_each_class_and_its_ideal(trace):
    lines = table(profile(trace), RATES).splitlines()
    assert lines[0] == "| class | ms a step | of it | kernels | ideal ms | x ideal |"
    rows = {line.split(" | ")[0].strip("| "): line for line in lines[2:]}
    of_other_bases = ["row quantising", "transposes of weights", "expansion of NF4"]
    absent = ["CUDA graphs", *of_other_bases, "additions, other elementwise"]
    assert [kind for kind in CLASSES if kind not in rows] == absent
    assert rows["large GEMMs"] == "| large GEMMs | 0.06 | 61.5% | 1 | 310.75 | 0.00 |"
    assert rows["gaps"] == "| gaps | 0.01 | 7.7% | 0 |  |  |"
    assert rows["step"].startswith("| step | 0.10 |")


def test_what_a_graph_starts_is_one_class(trace):
    for event in trace["traceEvents"]:
        if event["name"] == "cudaLaunchKernel" and event["args"]["correlation"] % 10 < 2:
            event["name"] = "cudaGraphLaunch"
    found = profile(trace)
    assert (found.time["CUDA graphs"], found.time["large GEMMs"], found.time["gaps"]) == pytest.approx((80, 0, 7.5))
    lines = table(found, RATES).splitlines()
    assert lines[0] == "| class | ms a step | of it | kernels |"
    assert [line.split(" | ")[0].strip("| ") for line in lines[2:]] == [
        "CUDA graphs",
        "copies and memsets",
        "gaps",
        "NCCL, other streams",
        "step",
    ]


def test_a_trace_of_something_else_is_refused():
    with pytest.raises(ValueError, match="not a trace of rankwise bench"):
        profile({"traceEvents": [host("aten::mm", 0, 1)]})


def test_formulas_give_the_published_figures_of_llama_8b():
    """GFLOP and KB a token: forward 15.009 and backward 14.959, attention 0.537 and 1.342, A and B 557 KB a layer."""
    assert sum(frozen_flop(LLAMA_8B, 1, 1)) == pytest.approx(15.009e9 + 14.959e9, rel=1e-4)
    assert attention_flop(LLAMA_8B, 1) == pytest.approx((0.537e9, 1.342e9), rel=1e-3)
    assert adapter_parameters(LLAMA_8B) == pytest.approx(41.94e6, rel=1e-4)
    assert adapter_bytes(LLAMA_8B | {"lora_r": 64}, 1) / 32 == pytest.approx(225e3 + 332e3, rel=1e-3)


def test_low_rank_terms_that_share_passes_move_a_quarter():
    """A layer, in elements: q k v 4096 + 6144, 6144 + 8192; o 4096 + 8192, 4096 + 8192; gate up 4096, 8192; down 8192, 4096."""
    assert adapter_bytes(LLAMA_8B, 1) == 2 * 32 * (10240 + 14336 + 12288 + 12288 + 4096 + 8192 + 8192 + 4096)
    shared, own = (ideal_seconds(LLAMA_8B | {"lora_r": r}, RATES)["SwiGLU"] for r in (8, 32))
    assert own / shared == pytest.approx(11 / 8)


def test_recomputing_costs_all_products_but_the_last_and_attention():
    again = LLAMA_8B | {"activations": "recompute_block"}
    assert sum(frozen_flop(again, 1, 1)) - sum(frozen_flop(LLAMA_8B, 1, 1)) == pytest.approx(
        10.80e9 - 0.537e9, rel=1e-2
    )
    assert attention_flop(again, 1)[0] == 2 * attention_flop(LLAMA_8B, 1)[0]
    assert ideal_seconds(again, RATES)["norms"] > ideal_seconds(LLAMA_8B, RATES)["norms"]


BLOCKS = 6.979e9  # weights of the blocks' linear layers; a product of them costs two FLOP each
QKV = 4096 * 6144


def test_products_in_float8_run_at_their_own_rate_but_the_head_does_not():
    blocks, head = frozen_flop(LLAMA_8B, 1, 1)
    assert blocks == pytest.approx(2 * (2 * BLOCKS - QKV), rel=1e-3)
    plain, float8 = (ideal_seconds(LLAMA_8B | {"base_dtype": d}, RATES)["large GEMMs"] for d in ("same", "float8"))
    tokens, learned = 8192, 8188
    saved = tokens * blocks * (1 / 790e12 - 1 / 1500e12)
    assert plain == pytest.approx(ideal_seconds(LLAMA_8B, RATES)["large GEMMs"])
    assert plain - float8 == pytest.approx(saved)
    assert plain == pytest.approx((tokens * blocks + learned * head) / 790e12)


def test_what_other_bases_cost_beside_their_products():
    """A layer quantises rows of 4096, 4096, 4096, 14336 forward, of 6144, 4096, 28672, 4096 backward."""
    float8, nf4 = (stored_bytes(LLAMA_8B | {"base_dtype": d}, 100) for d in ("float8", "nf4"))
    assert float8["row quantising"] == 100 * 3 * (32 * (26624 + 43008) - 6144)
    assert float8["transposes of weights"] == pytest.approx(2 * (BLOCKS - QKV), rel=1e-3)
    assert nf4["expansion of NF4"] == pytest.approx((2 * BLOCKS - QKV) * 2.5166, rel=1e-3)
    assert stored_bytes(LLAMA_8B, 100) == {}
    again = stored_bytes(LLAMA_8B | {"base_dtype": "nf4", "activations": "recompute_mlp"}, 100)["expansion of NF4"]
    assert again - nf4["expansion of NF4"] == pytest.approx(32 * 4096 * 28672 * 2.5166, rel=1e-3)


def test_a_float8_step_names_its_classes_and_rate(trace):
    trace["rankwise"] = LLAMA_8B | {"base_dtype": "float8"}
    text = table(profile(trace), RATES)
    assert "| row quantising | 0.00 | 0.0% | 0 |" in text and "| transposes of weights |" in text
    assert text.splitlines()[-1] == "Ideal: 790 TFLOP/s, 1500 in float8, 4.2 TB/s."


def test_a_trace_of_the_program_on_a_cpu(tmp_path):
    file, markdown = tmp_path / "trace.json", tmp_path / "profile.md"
    bench = [BUILD / "rankwise", "bench", "--shape", "tiny", "--device", "cpu", "--micro-batch", "2", "--trace", file]
    subprocess.run(
        [*bench, "--base-dtype", "nf4", "--sequence-length", "64", "--steps", "1", "--warm-up", "1"], check=True
    )
    found = profile(json.loads(file.read_text()))
    assert (found.on_device, found.steps, found.facts["shape"]) == (False, 2, "tiny")
    assert found.facts["base_dtype"] == "nf4"
    own = ["large GEMMs", "attention forward", "attention backward", "norms", "rotary", "SwiGLU", "cross entropy"]
    assert [kind for kind in [*own, "optimizer"] if found.time[kind] <= 0] == []
    assert sum(found.time.values()) == pytest.approx(found.step)
    command = [sys.executable, ROOT / "tests/bench/gpu/step_profile.py", file, "--output", markdown, "--top", "3"]
    printed = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert printed == markdown.read_text() and "| ms a step | class | name |" in printed
