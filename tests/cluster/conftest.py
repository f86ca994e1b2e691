"""One cluster for all tests of a process, and a namespace for each: Pod Security lets in there what the standard `restricted` does."""

import itertools
import re
import sys
from pathlib import Path

import pytest

TESTS = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(TESTS / "e2e"), str(TESTS / "support"), str(TESTS.parent / "tools")]

from cluster import RESTRICTED, Cluster  # noqa: E402
from fixtures import new_run, tiny  # noqa: E402, F401
from jobs import Job, MpiJob, start  # noqa: E402
from kubelet import Kubelet, Played  # noqa: E402
from overlays import EXAMPLE  # noqa: E402

NUMBERS = itertools.count()


def pytest_collection_modifyitems(items):
    """One of two processes is busy with the pods to the end, so they begin at once; the other one does all else."""
    items.sort(key=lambda item: item.path.name != "test_pods.py")


@pytest.fixture(scope="session")
def cluster(tmp_path_factory):
    with Cluster(tmp_path_factory.mktemp("cluster")) as started:
        yield started


@pytest.fixture(scope="session")
def kubelet(cluster):
    with Kubelet(cluster.api, Played()) as started:
        yield started


@pytest.fixture
def namespace(cluster, kubelet, request):
    """Its name. What a test leaves in it is deleted, and its pods are ended: the next test wants the nodes' GPUs."""
    name = f"{re.sub('[^a-z0-9]+', '-', request.node.originalname.removeprefix('test_'))[:50]}-{next(NUMBERS)}"
    cluster.new_namespace(name, RESTRICTED)
    yield name
    cluster.api.delete(f"/api/v1/namespaces/{name}")


@pytest.fixture
def start_mpijob(cluster, kubelet, namespace):
    """start_mpijob({path: value}, overlay): the running MPIJob of an overlay, changed."""

    def started(changes=None, overlay=EXAMPLE, **more):
        job = start(cluster, namespace, overlay, "MPIJob", changes or {}, **more)
        return MpiJob(cluster, kubelet, namespace, job["metadata"]["name"])

    return started


@pytest.fixture
def start_job(cluster, kubelet, namespace):
    """The same with the Job of an overlay."""

    def started(changes=None, overlay=EXAMPLE):
        job = start(cluster, namespace, overlay, "Job", changes or {})
        return Job(cluster, kubelet, namespace, job["metadata"]["name"])

    return started
