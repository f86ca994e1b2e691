"""`rankwise launch` over a hostfile, on hosts that only ssh and the network join: no Kubernetes, and no Go."""

import os
import re
import signal

import pytest

import open_mpi_5
from hosts import Hosts
from launches import Launch

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="namespaces and mounts want root")
PORT = 22
LONG = {"max_steps": 4000, "save_steps": 10}
OPEN_MPI = {"the system's": dict, "5": open_mpi_5.environment}


@pytest.fixture
def hosts(tmp_path):
    with Hosts(tmp_path, 3) as started:
        yield started


class Launched(Launch):
    """Started on the first of the hosts, over all of them."""

    def __init__(self, run, hosts, *options, environment=None):
        self.run = run
        hostfile = run.directory / "hostfile"
        hostfile.write_text("".join(f"{host.name} slots=1\n" for host in hosts))
        inside = hosts[0].inside(run.directory)
        environment = {"TMPDIR": str(hosts[0].temporary)} | (environment or {})
        super().__init__(run, "--hostfile", hostfile, *options, np=0, inside=inside, environment=environment)

    def reaches_step(self, step):
        self.wait_for(lambda: self.run.last_step() >= step, f"step {step}")

    def stop(self):
        self.launcher().send(signal.SIGTERM)
        assert self.wait() == 75, self.output()


@pytest.fixture
def run(new_run):
    return new_run(train=LONG, comms={"timeout_seconds": 10})


def goes_on(run, hosts, **more):
    """The run on these hosts continues behind its last checkpoint, and stops when asked to, with what it has saved."""
    saved = run.checkpoints()[-1]
    with Launched(run, hosts, **more) as job:
        job.wait_for_output(f"continuing behind step {saved}\\b")
        job.reaches_step(saved + 3)
        job.stop()
    assert f"-np {len(hosts)} " in job.output()
    assert run.checkpoints()[-1] == run.last_step() > saved


def test_a_host_that_is_cut_off_is_named_and_the_run_goes_on_without_it(hosts, run):
    """Nobody is told that it is gone: the ranks that are left give up on it, and mpirun, which waits on, is ended."""
    with Launched(run, hosts[:2], "--restarts", 0) as job:
        job.reaches_step(12)  # there is the checkpoint of step 10
        hosts[1].cut()
        assert job.wait(timeout=120) == 71, job.output()
    assert re.search(r"no progress on host-1 .*look at host-2 and the network", job.output()), job.output()
    goes_on(run, hosts[:1])


@pytest.mark.parametrize("version", OPEN_MPI)
def test_a_host_whose_processes_are_gone_is_named_and_the_run_goes_on_without_it(hosts, run, version):
    environment = OPEN_MPI[version]()
    with Launched(run, hosts, "--start-timeout", 3, environment=environment) as job:
        job.reaches_step(12)
        hosts[2].lose()
        assert job.wait(timeout=120) == 69, job.output()
    assert f"hosts that do not answer on port {PORT} after 3 s: host-3: Connection refused" in job.output()
    goes_on(run, hosts[:2], environment=environment)


def test_a_host_that_comes_back_is_waited_for(hosts, run):
    with Launched(run, hosts) as job:
        job.reaches_step(12)
        hosts[1].lose()
        job.wait_for_output(f"waiting for hosts, port {PORT}: host-2: Connection refused")
        saved = run.checkpoints()[-1]
        hosts[1].start()
        job.wait_for_output(f"continuing behind step {saved}\\b")
        job.reaches_step(saved + 3)
        job.stop()
    goes_on(run, hosts)
