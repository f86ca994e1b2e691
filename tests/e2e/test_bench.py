"""`rankwise bench`: what it prints, and the trace of a few more steps."""

import json

import pytest

from program import printed_json, run

SMALL = ["bench", "--shape", "tiny", "--device", "cpu", "--sequence-length", "64", "--steps", "2", "--warm-up", "1"]
SCOPES = {
    "rankwise::step",
    "rankwise::sum_products",
    "rankwise::attention_forward",
    "rankwise::attention_backward",
    "rankwise::rms_norm",
    "rankwise::rope",
    "rankwise::swiglu",
    "rankwise::swiglu_backward",
    "rankwise::cross_entropy",
    "rankwise::adamw",
    "aten::mm",
}


def test_a_model_s_files_are_read_and_timed(tiny, tmp_path):
    common = [word for word in SMALL if word not in ("--shape", "tiny")]
    printed = printed_json(run(tmp_path, 2, *common, "--model", tiny.model, "--base", "shard"))
    stored = sum(path.stat().st_size for path in tiny.model.glob("*.safetensors"))
    assert stored / 2 <= printed["read_bytes"] < 0.6 * stored, "half of the matrices, and all norms"
    assert printed["load_seconds"] > 0
    assert printed["loss"][-1] < printed["loss"][0]


def test_samples_of_drawn_lengths_fill_the_same_tokens(tmp_path):
    dense, packed = (printed_json(run(tmp_path, 1, *SMALL, *more)) for more in ([], ["--shortest", 4]))
    assert dense["samples_per_micro_batch"] == 4
    assert 4 < packed["samples_per_micro_batch"] < 4 * 64 / 4
    assert packed["loss"][0] == pytest.approx(dense["loss"][0], rel=0.05), "near the logarithm of the vocabulary"
    refused = run(tmp_path, 1, *SMALL, "--shortest", 65, expect=64)
    assert "--shortest 65: more than --sequence-length 64" in refused


def test_a_layer_keeps_what_the_design_names_and_nothing_else(tmp_path):
    """Input 256, q k v 512, attention 256, middle 256, gate and up 1024, S 7 x 16; two statistics in float32.

    What this CPU computes in, bfloat16 or float32, is its own choice.
    """
    two, four = (
        printed_json(run(tmp_path, 1, *SMALL, "--activations", "save", "--layers", n))["turn_activation_bytes"]
        for n in (2, 4)
    )
    elements = 256 + 512 + 256 + 256 + 1024 + 7 * 16
    assert (four - two) / 2 / (4 * 64) in [elements * size + 2 * 4 for size in (2, 4)]


def test_a_base_in_four_bits_is_gathered_in_four_bits(tmp_path):
    """The tiny shape has blocks of 589,824 elements, in matrices of whole spans: 36 of them, of 8,464 bytes."""
    same, nf4 = (
        printed_json(run(tmp_path, 2, *SMALL, "--base", "shard", "--prefetch", 0, "--base-dtype", base_dtype))
        for base_dtype in ("same", "nf4")
    )
    assert (same["base_dtype"], nf4["base_dtype"]) == ("same", "nf4")
    assert nf4["gathered_bytes_per_micro_batch"] == nf4["planned_gathered_bytes"] == 3 * 36 * 8464
    assert nf4["gathered_bytes_per_micro_batch"] < same["gathered_bytes_per_micro_batch"] / 3
    assert nf4["peak_gib"] == pytest.approx(nf4["plan_gib"], rel=0.05)
    assert nf4["loss"][-1] < nf4["loss"][0]


@pytest.mark.parametrize("ranks", [0, 2])
def test_a_trace_names_what_a_step_does(tmp_path, ranks):
    printed = printed_json(run(tmp_path, ranks, *SMALL, "--trace", "of/trace.json"))
    assert len(printed["loss"]) == 1 + 2 + 3
    trace = json.loads((tmp_path / "of/trace.json").read_text())
    names = [event["name"] for event in trace["traceEvents"] if event.get("cat") == "cpu_op"]
    assert SCOPES - set(names) == set()
    assert names.count("rankwise::step") == 3
    assert (trace["rankwise"]["shape"], trace["rankwise"]["ranks"]) == ("tiny", max(ranks, 1))
    assert [path.name for path in (tmp_path / "of").iterdir()] == ["trace.json"], "rank 0 alone writes"


def test_a_trace_that_cannot_be_written_is_said_before_the_first_step(tmp_path):
    (tmp_path / "file").write_text("")
    output = run(tmp_path, 0, *SMALL, "--trace", "file/trace.json", expect=73)
    assert "file" in output and not any(line.startswith("{") for line in output.splitlines())


def test_without_a_trace_no_more_steps_are_made(tmp_path):
    assert len(printed_json(run(tmp_path, 0, *SMALL))["loss"]) == 1 + 2
    assert list(tmp_path.glob("*.json")) == []
