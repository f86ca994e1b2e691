"""What a real API server says of the overlays: strict schemas, Pod Security, and the same again after they are applied."""

import copy
import itertools
import json

import pytest

from api_server import ApiServer
from manifests import JOBS, folder, of_kind, pod_templates
from program import ROOT

RESTRICTED = [overlay for overlay in JOBS if overlay != "rdma"]
NUMBERS = itertools.count(1)


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    with ApiServer(tmp_path_factory.mktemp("api")) as made:
        yield made


@pytest.fixture
def namespace(server):
    """One that enforces the restricted pod security standard, with the service account of the pods."""
    name = f"test-{next(NUMBERS)}"
    server.kubectl("create", "namespace", name)
    server.kubectl("label", "namespace", name, "pod-security.kubernetes.io/enforce=restricted")
    server.kubectl("-n", name, "apply", "-f", ROOT / "k8s/base/service_account.yaml")
    return name


def dry_run(server, namespace, manifest):
    words = ["-n", namespace, "apply", "--dry-run=server", "--validate=strict", "-f", "-"]
    return server.kubectl(*words, input=json.dumps(manifest), check=False)


def pods_of(overlay):
    for number, template in enumerate(pod_templates(overlay)):
        yield {"apiVersion": "v1", "kind": "Pod", "spec": template["spec"]} | {
            "metadata": template["metadata"] | {"name": f"pod-{number}"}
        }


@pytest.mark.parametrize("overlay", JOBS)
def test_it_is_applied_and_then_nothing_differs(server, namespace, overlay):
    applied = server.kubectl("-n", namespace, "apply", "--validate=strict", "-k", folder(overlay))
    assert "Warning" not in applied.stderr
    again = server.kubectl("-n", namespace, "diff", "-k", folder(overlay), check=False)
    assert again.returncode == 0, again.stdout + again.stderr


@pytest.mark.parametrize("overlay", RESTRICTED)
def test_its_pods_are_admitted_where_little_is_allowed(server, namespace, overlay):
    for pod in pods_of(overlay):
        done = dry_run(server, namespace, pod)
        assert done.returncode == 0, done.stderr


def test_pinned_memory_is_not(server, namespace):
    refused = [done.stderr for pod in pods_of("rdma") if (done := dry_run(server, namespace, pod)).returncode]
    assert len(refused) == 1 and "IPC_LOCK" in refused[0]


@pytest.mark.parametrize(
    "path", [["spec", "slotPerWorker"], ["spec", "mpiReplicaSpecs", "Worker", "template", "spec", "securityContxt"]]
)
def test_a_word_that_is_mistyped_is_refused_with_its_place(server, namespace, path):
    (job,) = copy.deepcopy(of_kind("mpijob", "MPIJob"))
    node = job
    for word in path[:-1]:
        node = node[word]
    node[path[-1]] = {}
    refused = dry_run(server, namespace, job)
    assert refused.returncode != 0 and ".".join(path) in refused.stderr
