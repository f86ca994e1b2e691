"""What a run says to programs: with --log-format json every line on stderr is one JSON object."""

import json
import re
import signal

from launches import Launch, finish
from program import run as run_program

JSON = ["--log-format", "json"]
ALWAYS = {"time", "level", "rank", "host", "message"}


def lines_of(output):
    """Every line as the object that it must be."""
    lines = [json.loads(line) for line in output.splitlines()]
    for line in lines:
        assert line.keys() >= ALWAYS, line
        assert line["level"] in ("debug", "info", "warning", "error")
        assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", line["time"])
    return lines


def with_event(lines, event):
    return [line for line in lines if line.get("event") == event]


def test_a_run_for_programs(tiny, new_run):
    evaluated = {"eval": [{"path": str(tiny.directory / "valid.jsonl"), "format": "messages"}]}
    run = new_run(train=dict(eval_steps=6), data=evaluated)
    lines = lines_of(finish(run, *JSON))
    (launch,) = with_event(lines, "launch")
    assert launch["rank"] is None and launch["message"].startswith("mpirun ")
    steps = with_event(lines, "step")
    assert [line["step"] for line in steps] == list(range(1, 13))
    assert [line["loss"] for line in steps] == run.losses()
    assert {line["rank"] for line in steps} == {0}
    assert {line["total_steps"] for line in steps} == {12}
    evaluations = {line["step"]: line["eval_loss"] for line in with_event(lines, "evaluation")}
    assert evaluations == {entry["step"]: entry["eval_loss"] for entry in run.evaluations()}
    assert [line["step"] for line in with_event(lines, "checkpoint")] == run.checkpoints() == [4, 8, 12]
    (end,) = with_event(lines, "end")
    assert (end["step"], end["state"]) == (12, "finished")
    assert end["input_tokens"] == sum(entry["input_tokens"] for entry in run.steps()) > 0
    assert end["seconds"] > 0 and end["tokens_per_second"] > 0 and end["peak_memory_bytes"] > 100_000_000
    assert (run.directory / end["adapter"]).samefile(run.output / "final")
    assert any(line["message"].startswith("loading weights") and line.get("seconds", 0) > 0 for line in lines)
    assert lines_of(finish(run, "--log-format", "json"))[-1]["event"] == "end"


def test_a_run_for_people_stays_as_it_is(new_run):
    output = finish(new_run(train=dict(max_steps=3, save_steps=3)))
    assert not re.search(r"^\{", output, re.MULTILINE)
    assert re.search(r"^\d\d:\d\d:\d\d info mpirun ", output, re.MULTILINE)
    assert re.search(r"^step 3/3 \(100%\)  loss \d+\.\d{4}  lr ", output, re.MULTILINE)


def test_the_environment_decides_for_every_command(new_run):
    run = new_run(train=dict(learning_rat=1))
    for command in ("train", "check", "plan", "prepare"):
        output = run_program(
            run.directory, 0, command, run.config, expect=78, environment={"RANKWISE_LOG_FORMAT": "json"}
        )
        (line,) = lines_of(output)
        assert line["level"] == "error" and "learning_rate" in line["message"], command


def test_the_option_may_stand_with_the_ranks_command(new_run):
    run = new_run(train=dict(learning_rat=1))
    output = run_program(run.directory, 0, "launch", "--np", 2, "train", run.config, *JSON, expect=78)
    assert len(lines_of(output)) == 1


def test_a_bad_command_line_is_one_line(tmp_path):
    for arguments in (["train", *JSON], ["train", *JSON, "a", "b"], ["launch", *JSON, "--npp", 2]):
        (line,) = lines_of(run_program(tmp_path, 0, *arguments, expect=64))
        assert line["level"] == "error"
    assert '"yaml"; text or json' in run_program(tmp_path, 0, "train", "--log-format", "yaml", "a", expect=64)
    environment = {"RANKWISE_LOG_FORMAT": "yaml"}
    assert "RANKWISE_LOG_FORMAT" in run_program(tmp_path, 0, "check", "a", expect=64, environment=environment)


def test_an_error_of_all_ranks_is_one_line(new_run):
    run = new_run(model=dict(path="/absent"))
    lines = lines_of(finish(run, *JSON, expect=66))
    (error,) = [line for line in lines if "/absent" in line["message"]]
    assert (error["level"], error["rank"]) == ("error", 0)


def test_a_rank_that_hangs_is_named_in_one_line(new_run):
    run = new_run(train=dict(max_steps=5000, save_steps=0), comms=dict(timeout_seconds=3))
    reason = run.directory / "reason"
    reason.touch()
    with Launch(run, *JSON, "--restarts", 0, "--termination-log", reason) as job:
        ranks = job.rank_processes()
        job.wait_for(lambda: run.last_step() >= 3, "step 3")
        ranks[1].send(signal.SIGSTOP)
        assert job.wait() == 71, job.output()
        lines = lines_of(job.output())
    (hang,) = with_event(lines, "hang")
    assert (hang["level"], hang["rank"]) == ("error", 0) and hang["step"] >= 3
    assert re.search(r"no progress on \S+ for 3\.0 s; stopped: rank 1 \(", hang["message"])
    assert reason.read_text() == f"exit code 71: {hang['message']}\n"
