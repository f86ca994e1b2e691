"""`rankwise launch`: ranks started, asked to stop, started again, and given up for good."""

import json
import os
import signal
import socket

import pytest

from launches import Launch, finish
from program import Job, children_of, wait_for_their_end, wait_until
from runs import Run, write_data

LONG = dict(max_steps=24, save_steps=8)


@pytest.fixture(scope="module")
def undisturbed(tiny, tmp_path_factory):
    run = Run(tmp_path_factory.mktemp("undisturbed"), tiny.settings(train=LONG))
    output = finish(run)
    assert "mpirun " in output and "-np 2 --bind-to none" in output, "what is started is said"
    assert "comms.expected_world_size=2" in output
    return run


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_stopped_run_is_saved_and_goes_on(new_run, undisturbed, number):
    run = new_run(train=LONG)
    with Launch(run) as job:
        ranks = job.rank_processes()
        job.wait_for(lambda: run.last_step() >= 3, "step 3")
        job.main.send(number)
        assert job.wait() == 75, job.output()
        wait_for_their_end(ranks)
    assert run.checkpoints() == [run.last_step()]
    assert f"continuing behind step {run.last_step()}" in finish(run)
    assert run.state_hashes() == undisturbed.state_hashes()


def test_a_run_whose_rank_is_killed_starts_again_by_itself(new_run, undisturbed):
    run = new_run(train=LONG)
    with Launch(run) as job:
        ranks = job.rank_processes()
        job.wait_for(lambda: run.last_step() >= 9, "step 9")
        ranks[1].kill()
        assert job.wait() == 0, job.output()
        assert "start 2 of 4 in 1 s" in job.output()
    assert run.state_hashes() == undisturbed.state_hashes()


def test_under_nohup_it_outlives_its_terminal(new_run):
    run = new_run(train=LONG)
    with Launch(run, inside=["nohup"]) as job:
        job.wait_for(lambda: run.last_step() >= 3, "step 3")
        job.main.send(signal.SIGHUP)
        assert job.wait() == 0, job.output()
    assert run.last_step() == 24


def test_restarts_have_a_limit(new_run):
    run = new_run(train=LONG)
    with Launch(run, "--restarts", 0, "--termination-log", run.directory / "reason") as job:
        (run.directory / "reason").touch()
        ranks = job.rank_processes()
        job.wait_for(lambda: run.last_step() >= 3, "step 3")
        ranks[0].kill()
        assert job.wait() == 137, job.output()
    assert (run.directory / "reason").read_text().startswith("exit code 137: ")


def test_as_the_first_process_of_a_container(new_run, undisturbed):
    """Process 1 gets no signal that it does not handle, and every orphan."""
    run = new_run(train=LONG)
    with Launch(run, first_process=True) as job:
        job.wait_for(lambda: run.last_step() >= 3, "step 3")
        job.launcher().send(signal.SIGTERM)
        assert job.wait() == 75, job.output()
    finish(run)
    assert run.state_hashes() == undisturbed.state_hashes()


def test_what_no_other_start_can_help_is_tried_once(new_run, tiny, tmp_path):
    data = tmp_path / "train.jsonl"
    data.write_text('{"messages": 1}\n')
    run = new_run(data=dict(train=[{"path": str(data), "format": "messages"}]))
    assert "FAILED_PERMANENT" in finish(run, expect=65)
    marker = json.loads((run.output / "FAILED_PERMANENT").read_text())
    assert marker["exit_code"] == 65 and "train.jsonl:1" in marker["error"]
    again = finish(run, expect=65)
    assert "mpirun" not in again, "it was started again"
    assert "train.jsonl:1" in again and "FAILED_PERMANENT" in again
    # Another configuration is another run.
    write_data(data, 48, 1)
    run.settings["train"]["max_steps"] = 4
    finish(Run(run.directory, run.settings))
    assert not (run.output / "FAILED_PERMANENT").exists()


def mpirun_that(run, does):
    """The environment in which an mpirun is a script that does this."""
    mpirun = run.directory / "bin/mpirun"
    mpirun.parent.mkdir()
    mpirun.write_text(f"#!/bin/sh\nif [ $1 = --version ]; then echo 'mpirun (Open MPI) 5.0.0'; exit; fi\n{does}\n")
    mpirun.chmod(0o755)
    return {"PATH": f"{mpirun.parent}:{os.environ['PATH']}"}


def test_stopped_before_another_start_it_says_why_the_one_before_failed(new_run):
    run = new_run()
    environment = mpirun_that(run, "echo 'error: worker-1 is lost' >&2; exit 71")
    reason = run.directory / "reason"
    reason.touch()
    with Launch(run, "--termination-log", reason, "--restarts", 9, environment=environment) as job:
        job.wait_for_output(r"start 5 of 10 in 8 s")  # time enough, whatever else this machine does
        job.main.send(signal.SIGTERM)
        assert job.wait(timeout=7) == 75, job.output()
    told = reason.read_text()
    assert told.startswith("exit code 75: ") and "code 71: error: worker-1 is lost" in told


def test_a_lost_host_is_no_success(new_run):
    """As mpirun of Open MPI 5 tells of it: with exit code 0."""
    run = new_run()
    environment = mpirun_that(run, "echo '  PRTE has lost communication with a remote daemon.' >&2")
    output = finish(run, "--restarts", 1, environment=environment, expect=71)
    assert "ended with code 71; start 2 of 2" in output


def test_a_bad_configuration_starts_nobody(new_run):
    run = new_run(train=dict(learning_rat=1))
    output = finish(run, expect=78)
    assert "learning_rate" in output and "mpirun" not in output


def test_the_number_of_ranks_must_be_known(new_run):
    assert "--np" in finish(new_run(), np=0, expect=64, environment={"CUDA_VISIBLE_DEVICES": ""})


def test_its_own_options_stand_before_the_command(new_run):
    assert "--npp" in finish(new_run(), "--npp", 2, np=0, expect=64)


def test_a_host_that_does_not_come_is_named(new_run):
    run = new_run()
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # and not listened on
        port = taken.getsockname()[1]
        (run.directory / "hostfile").write_text("127.0.0.1 slots=2\n")
        hosts = ["--hostfile", run.directory / "hostfile", "--ssh-port", port, "--start-timeout", 0]
        output = finish(run, *hosts, np=0, expect=69)
    assert f"port {port}" in output and "127.0.0.1: Connection refused" in output


def test_a_worker_that_is_told_to_end_lets_its_ranks_save(new_run, undisturbed):
    """A worker's ranks belong to its sshd, and mpirun is elsewhere: here two jobs beside each other."""
    run = new_run(train=LONG)
    worker_command = ["launch", "--worker", "sleep", "1000"]
    with Job(run.directory, 0, *worker_command) as worker, run.start(2) as training:
        worker.wait_for(lambda: children_of(worker.popen.pid), "sshd's stand-in")
        training.wait_for(lambda: run.last_step() >= 3, "step 3")
        worker.main.send(signal.SIGTERM)
        assert training.wait() == 75, training.output()
        assert worker.wait() == 0, worker.output()
    run.train(2)
    assert run.state_hashes() == undisturbed.state_hashes()


def test_a_launcher_that_is_killed_takes_all_with_it(new_run):
    run = new_run(train=LONG | dict(max_steps=5000))
    with Launch(run) as job:
        ranks = job.rank_processes()
        job.wait_for(lambda: run.last_step() >= 1, "step 1")
        job.main.kill()
        wait_for_their_end(ranks, timeout=30)
        wait_until(lambda: not children_of(job.popen.pid), "mpirun's end")
