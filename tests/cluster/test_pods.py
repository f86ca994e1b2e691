"""The image and the MPIJob's manifest, run: pods in namespaces, sshd, `rankwise launch`, mpirun, training over ssh."""

import contextlib
import os
import shutil
import subprocess
import sys

import pytest

from image import layers
from mpi_job import MpiJob
from pods import Network
from program import ROOT, wait_until

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="namespaces and mounts want root")
STEPS = 12
NEXT_START = "waiting for hosts"
LONG = {"train": {"max_steps": 4000, "save_steps": 10}}


@pytest.fixture(scope="module")
def image(tmp_path_factory):
    assert shutil.which("debootstrap") and shutil.which("ip"), "apt-get install debootstrap iproute2"
    return layers(tmp_path_factory.mktemp("image"))


@pytest.fixture
def new_job(tmp_path, tiny, image):
    with contextlib.ExitStack() as stack:
        network = stack.enter_context(Network(tmp_path))
        yield lambda **settings: MpiJob(tmp_path / "job", tiny, image, network, **settings)


@contextlib.contextmanager
def running(job):
    """(launcher, workers), all of them gone at the end."""
    with contextlib.ExitStack() as stack:
        workers = [stack.enter_context(job.worker(index)) for index in range(job.workers)]
        yield stack.enter_context(job.launcher()), workers


def said(*pods):
    return "\n".join(f"---- {pod.name}\n{pod.output()[-4000:]}" for pod in pods)


def wait_for_step(job, step, *pods):
    wait_until(lambda: job.run.last_step() >= step or not pods[0].running(), f"step {step}", 120)
    assert pods[0].running(), said(*pods)


def test_two_workers_train_and_peft_loads_the_adapter(new_job, tiny):
    job = new_job()
    with running(job) as (launcher, workers):
        assert launcher.wait(180) == 0, said(launcher, *workers)
        assert job.run.last_step() == STEPS
        assert f"-np {job.workers} " in launcher.output()
        assert all(worker.delete(grace=20) == 0 for worker in workers), said(*workers)
    loaded = subprocess.run(
        [sys.executable, ROOT / "tools/check_peft.py", tiny.model, job.run.output / "final"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert loaded.returncode == 0, loaded.stderr


def test_a_launcher_that_is_evicted_saves_and_another_goes_on(new_job):
    job = new_job(**LONG)
    with running(job) as (launcher, workers):
        wait_for_step(job, 5, launcher, *workers)
        assert launcher.delete() == 75, said(launcher, *workers)
        saved = job.run.checkpoints()[-1]
        assert saved == job.run.last_step()
        with job.launcher(attempt=1) as another:
            wait_for_step(job, saved + 3, another, *workers)
            assert f"continuing behind step {saved} " in another.output()


def test_a_worker_that_is_evicted_saves_and_its_successor_joins(new_job):
    job = new_job(**LONG)
    with running(job) as (launcher, workers):
        wait_for_step(job, 5, launcher, *workers)
        assert workers[1].delete(grace=60) == 0, said(launcher, *workers)
        saved = job.run.last_step()
        assert job.run.checkpoints()[-1] == saved
        with job.worker(1, attempt=1):
            wait_for_step(job, saved + 3, launcher, *workers)


def test_a_worker_that_is_cut_off_is_named(new_job):
    job = new_job(**LONG)
    with running(job) as (launcher, workers):
        wait_for_step(job, 5, launcher, *workers)
        job.network.cut(workers[1].namespace)
        # The ranks that are left give up within comms.timeout_seconds; mpirun would wait for the lost host.
        wait_until(lambda: NEXT_START in launcher.output().partition("no progress")[2], "the next start", 120)
        assert f"look at {job.name}-worker-1 and the network" in launcher.output()
        waiting = launcher.output().rpartition(NEXT_START)[2]
        assert job.host(1) in waiting and job.host(0) not in waiting
        assert launcher.delete(grace=60) != 0
