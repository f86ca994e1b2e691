"""`rankwise launch` with Open MPI 5: its mpirun has other options and names than that of version 4."""

import signal

import pytest

import open_mpi_5
from launches import Launch, finish
from program import read_proc

LONG = dict(max_steps=24, save_steps=8)


@pytest.fixture
def environment():
    return open_mpi_5.environment()


def test_a_stopped_run_goes_on_to_what_version_4_makes_of_it(new_run, environment):
    run, other = new_run(train=LONG), new_run("other", train=LONG)
    with Launch(run, environment=environment) as job:
        ranks = job.rank_processes()
        job.wait_for(lambda: run.last_step() >= 3, "step 3")
        library = f"{open_mpi_5.folder()}/lib/libmpi.so.40".encode()
        assert all(library in read_proc(rank.pid, "maps") for rank in ranks)
        job.main.send(signal.SIGTERM)
        assert job.wait() == 75, job.output()
    assert run.checkpoints() == [run.last_step()]
    assert f"continuing behind step {run.last_step()}" in finish(run, environment=environment)
    finish(other)
    assert run.state_hashes() == other.state_hashes()


def test_a_run_whose_rank_is_killed_starts_again_by_itself(new_run, environment):
    run = new_run(train=LONG)
    with Launch(run, environment=environment) as job:
        ranks = job.rank_processes()
        job.wait_for(lambda: run.last_step() >= 9, "step 9")
        ranks[1].kill()
        assert job.wait() == 0, job.output()
        assert "start 2 of 4 in 1 s" in job.output()
    assert run.last_step() == 24


def test_ranks_with_the_library_of_another_version_do_not_train_alone(new_run):
    run = new_run()
    output = finish(run, "--restarts", 0, expect=71, environment=open_mpi_5.environment_with_an_older_library())
    assert "the launcher started 2 ranks but MPI sees 1" in output and "the mpirun of the same Open MPI" in output
    assert not run.output.exists()
