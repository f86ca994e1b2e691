"""The losses of bases in other formats: the table, what is allowed, and how the runs are started, without training."""

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "bench"))
import base_formats  # noqa: E402

SAME, FLOAT8, NF4 = {0: 4.34, 10: 3.9, 20: 3.7}, {0: 4.35, 10: 3.91, 20: 3.7333}, {0: 4.4, 10: 3.95, 20: 3.885}

# Leaves the log of a run whose losses depend on the format alone, and what it was called with.
MPIRUN = """#!{python}
import json, pathlib, sys
settings = dict(argument.split("=", 1) for argument in sys.argv if "=" in argument)
run = pathlib.Path(settings["run.output_dir"])
run.mkdir()
curve = {curves}[settings["model.base_dtype"]]
entries = [{{"step": 1, "loss": 4.1}}, *({{"step": step, "eval_loss": loss}} for step, loss in curve.items())]
(run / "train_log.jsonl").write_text("\\n".join(map(json.dumps, entries)))
with open("{calls}", "a") as calls:
    calls.write(" ".join(sys.argv[1:]) + "\\n")
"""


def test_the_table_has_each_evaluation_and_how_far_the_last_one_is_off():
    lines = base_formats.table({"same": SAME, "float8": FLOAT8, "nf4": NF4}).splitlines()
    assert lines[0] == "| step | same | float8 | nf4 |"
    assert lines[3] == "| 10 | 3.9000 | 3.9100 | 3.9500 |"
    assert lines[5] == "| beside same | +0.00 % | +0.90 % | +5.00 % |"
    assert lines[6] == "|  |  | 1 % allowed: met |  |"


@pytest.mark.parametrize("loss, allowed", [(3.7365, True), (3.738, False), (3.662, False), (float("nan"), False)])
def test_float8_may_be_one_percent_off_to_either_side(loss, allowed):
    curves = {"same": SAME, "float8": FLOAT8 | {20: loss}, "nf4": NF4}
    assert base_formats.missed(curves) == ([] if allowed else ["float8"])
    assert ("1 % allowed: met" in base_formats.table(curves)) == allowed


@pytest.fixture
def compare(tmp_path, monkeypatch):
    """Calls the tool with a launcher that trains nothing; returns its exit code and the calls."""
    monkeypatch.setattr(base_formats, "make_inputs", lambda: None)
    mpirun, calls = tmp_path / "mpirun", tmp_path / "calls"

    def run(float8):
        curves = {"same": SAME, "float8": float8, "nf4": NF4}
        mpirun.write_text(MPIRUN.format(python=sys.executable, curves=curves, calls=calls))
        mpirun.chmod(0o755)
        arguments = [
            "--mpirun",
            str(mpirun),
            "--output",
            str(tmp_path / "table.md"),
            "--device",
            "cpu",
            "--steps",
            "40",
        ]
        code = base_formats.main(arguments)
        return code, calls.read_text().splitlines(), (tmp_path / "table.md").read_text()

    return run


def test_runs_differ_in_the_format_alone(compare):
    code, calls, text = compare(FLOAT8)
    assert code == 0 and "| 20 | 3.7000 | 3.7333 | 3.8850 |" in text
    assert len(calls) == 3 and all("train.eval_steps=8" in call and "parallel.device=cpu" in call for call in calls)
    assert len({call.replace("float8", "same").replace("nf4", "same") for call in calls}) == 1


def test_a_format_that_is_too_far_off_fails_after_the_table_is_written(compare):
    code, _, text = compare(FLOAT8 | {20: 3.75})
    assert code == 1 and "1 % allowed: missed" in text
