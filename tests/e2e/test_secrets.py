"""Secrets of the environment, or in a configuration by mistake, appear nowhere: canaries are planted and searched for."""

import signal

import pytest

from launches import Launch
from program import fetch, read_proc
from program import run as run_program

CANARY = "canary-5f0c2a"
NAMES = ["HF_TOKEN", "AWS_SECRET_ACCESS_KEY", "WANDB_API_KEY", "NCCL_TOKEN", "RANKWISE_SECRET"]
ENVIRONMENT = {name: f"{CANARY}-{name}" for name in NAMES}
VISIBLE = "a-name-that-is-shown"  # shows that the search would find a canary


def contents(directory):
    return {str(path): path.read_bytes() for path in directory.rglob("*") if path.is_file()}


def found_in(texts, wanted):
    return sorted(place for place, text in texts.items() if wanted.encode() in text)


def pages(job):
    base = job.metrics_url().removesuffix("metrics")
    return {name: fetch(base + name).encode() for name in ("metrics", "run.json", "", "healthz", "readyz")}


@pytest.mark.parametrize("options", [[], ["--log-format", "json"]], ids=["text", "json"])
def test_a_run_shows_none_of_its_environment(new_run, options):
    run = new_run(run=dict(name=VISIBLE), train=dict(max_steps=5000, save_steps=5))
    reason = run.directory / "reason"
    reason.touch()
    with Launch(run, *options, "--termination-log", reason, environment=ENVIRONMENT) as job:
        processes = [job.main, *job.rank_processes()]
        job.wait_for(lambda: run.last_step() >= 6, "a checkpoint")
        shown = pages(job) | {f"command line of {one.pid}": read_proc(one.pid, "cmdline") for one in processes}
        assert all(f"{CANARY}-HF_TOKEN".encode() in read_proc(one.pid, "environ") for one in processes), "not planted"
        job.main.send(signal.SIGTERM)
        assert job.wait() == 75
    texts = shown | contents(run.directory)  # the run's files, the output, the message for the pod
    assert found_in(texts, CANARY) == []
    places = " ".join(found_in(texts, VISIBLE))
    assert "run.json" in places and "config.yaml" in places


def test_a_failure_shows_none_of_its_environment(new_run):
    run = new_run(model=dict(path="/absent"))
    reason = run.directory / "reason"
    reason.touch()
    with Launch(run, "--termination-log", reason, environment=ENVIRONMENT) as job:
        assert job.wait() == 66
    texts = contents(run.directory)
    assert found_in(texts, CANARY) == []
    assert str(reason) in found_in(texts, "/absent")


@pytest.mark.parametrize("command", [["train"], ["check"], ["launch", "--np", 2, "train"]], ids=str)
def test_an_unknown_key_is_named_without_its_value(new_run, command):
    run = new_run(train={"hf_token": CANARY})
    told = run_program(run.directory, 0, *command, run.config, expect=78)
    assert "train.hf_token" in told and CANARY not in told
    told = run_program(run.directory, 0, *command, new_run("b").config, "--set", f"model.api_key={CANARY}", expect=78)
    assert "model.api_key" in told and CANARY not in told
