"""The life of an MPIJob under the real operator, Job controller, scheduler and garbage collector.

Some tests hold what the operator does badly: our manifests and our launcher are made for it, and should another version
do better, these tests say so.
"""

import pytest

from api import eventually, never
from jobs import phase, uid
from overlays import EXAMPLE

# The overlays whose MPIJob starts at once, on nodes with GPUs alone and in a restricted namespace.
RUNNABLE = [EXAMPLE, "mpijob"]
LOST_RANK = 71


@pytest.mark.parametrize("overlay", RUNNABLE)
def test_it_succeeds_and_its_workers_end(start_mpijob, kubelet, overlay):
    job = start_mpijob(overlay=overlay)
    launcher = job.running_launcher()
    job.reaches("Running")
    kubelet.runtime.succeed(launcher)
    job.reaches("Succeeded")
    eventually(lambda: not job.workers(), "the workers are gone")


def test_launcher_waits_until_every_worker_is_ready(start_mpijob, kubelet):
    job = start_mpijob()
    first, second = job.running_workers()
    kubelet.runtime.ready(first)
    eventually(lambda: job.status()["replicaStatuses"]["Worker"].get("active") == 2, "the operator sees both workers")
    never(job.launcher_job, "the launcher was made with one worker of two ready")
    kubelet.runtime.ready(second)
    job.running(1, job.launchers)


def test_hostfile_names_every_worker_from_the_start(start_mpijob, cluster, namespace):
    job = start_mpijob()
    path = f"/api/v1/namespaces/{namespace}/configmaps/{job.name}-config"
    hosts = eventually(lambda: cluster.api.find(path), "the hostfile is there")["data"]["hostfile"]
    assert hosts.splitlines() == [f"tune-worker-{index}.tune.{namespace}.svc slots=8" for index in range(2)]


def test_failed_launcher_is_made_anew_and_given_up_after_the_limit(start_mpijob, kubelet):
    job = start_mpijob()
    first = job.running_launcher()
    kubelet.runtime.fail(first, LOST_RANK)
    (second,) = job.running(1, job.launchers)
    assert uid(second) != uid(first)
    assert job.condition("Failed") is None
    kubelet.runtime.fail(second, LOST_RANK)
    assert job.reaches("Failed").startswith("BackoffLimitExceeded")
    eventually(lambda: not job.workers(), "the workers are gone")


def test_failed_worker_is_made_anew_only_when_it_is_deleted(start_mpijob, kubelet, cluster, namespace):
    """So a worker that must not stay away wants restartPolicy: OnFailure, which the kubelet sees to."""
    job = start_mpijob()
    launcher = job.running_launcher()
    lost = job.workers()[0]
    kubelet.runtime.fail(lost, 1)
    eventually(lambda: job.status()["replicaStatuses"]["Worker"].get("failed") == 1, "the operator sees the failure")
    never(lambda: uid(lost) not in map(uid, job.workers()), "the failed worker was replaced")
    assert job.condition("Failed") is None and phase(job.launchers()[0]) == "Running"
    cluster.kubectl("delete", "pod", lost["metadata"]["name"], f"--namespace={namespace}")
    again = job.running_workers()
    assert lost["metadata"]["name"] in [pod["metadata"]["name"] for pod in again]
    assert uid(lost) not in map(uid, again)
    assert list(map(uid, job.launchers())) == [uid(launcher)]


def test_suspension_ends_all_pods(start_mpijob, cluster):
    job = start_mpijob()
    job.running_launcher()
    job.reaches("Running")
    cluster.api.patch(job.path, {"spec": {"runPolicy": {"suspend": True}}})
    job.reaches("Suspended")
    eventually(lambda: not job.pods(), "all pods are gone")
    assert job.condition("Running") == ("False", "MPIJobSuspended")


def test_resumed_launcher_does_not_wait_for_the_workers(start_mpijob, cluster):
    """Kueue starts every job suspended. So `rankwise launch` waits for the hosts by itself (--start-timeout)."""
    job = start_mpijob({"spec.runPolicy.suspend": True})
    job.reaches("Suspended")
    assert job.launcher_job()["spec"]["suspend"] and not job.pods()
    cluster.api.patch(job.path, {"spec": {"runPolicy": {"suspend": False}}})
    job.running(1, job.launchers)
    workers = job.running_workers()
    ready = [one for pod in workers for one in pod["status"]["conditions"] if one["type"] == "Ready"]
    assert [one["status"] for one in ready] == ["False", "False"]


def test_evicted_worker_fails_the_job_that_goes_on_holding_its_nodes(start_mpijob, kubelet):
    """There is no completion time, so nothing is cleaned up: an alert has to say it."""
    job = start_mpijob()
    job.running_launcher()
    kubelet.evict(job.workers()[0])
    assert job.reaches("Failed") == "MPIJobEvicted"
    never(lambda: "completionTime" in job.status(), "the job was given up")
    assert [phase(pod) for pod in job.workers()] == ["Failed", "Running"]
    assert phase(job.launchers()[0]) == "Running"


@pytest.mark.parametrize("overlay", RUNNABLE)
def test_drain_is_refused_as_long_as_the_budget_is_there(start_mpijob, cluster, namespace, uncordoned, overlay):
    job = start_mpijob(overlay=overlay)
    job.running_launcher()
    (budget,) = cluster.api.get(f"/apis/policy/v1/namespaces/{namespace}/poddisruptionbudgets")["items"]
    path = f"/apis/policy/v1/namespaces/{namespace}/poddisruptionbudgets/{budget['metadata']['name']}"
    eventually(lambda: cluster.api.get(path)["status"]["currentHealthy"] == job.replicas(), "every worker counts")
    worker = job.workers()[0]
    drain = [
        "drain",
        uncordoned(worker),
        "--pod-selector=training.kubeflow.org/job-role=worker",
        "--delete-emptydir-data",
    ]
    refused = cluster.run(*drain, "--timeout=3s")
    assert refused.returncode == 1 and "would violate the pod's disruption budget" in refused.stderr
    cluster.api.delete(path)
    cluster.kubectl(*drain, "--timeout=60s")
    job.loses(worker)


@pytest.fixture
def uncordoned(cluster):
    """uncordoned(pod): the pod's node, which takes pods again after the test."""
    nodes = []

    def node_of(pod):
        nodes.append(pod["spec"]["nodeName"])
        return nodes[-1]

    yield node_of
    for name in nodes:
        cluster.kubectl("uncordon", name)


def test_deletion_leaves_nothing(start_mpijob, cluster, namespace):
    job = start_mpijob()
    job.running_launcher()
    made = "pods,jobs,services,secrets,configmaps"

    def left():
        names = cluster.kubectl("get", made, f"--namespace={namespace}", "--output=name").split()
        return [name for name in names if name != "configmap/kube-root-ca.crt"]

    assert {name.split("/")[0] for name in left()} == {"pod", "job.batch", "service", "secret", "configmap"}
    cluster.kubectl("delete", "mpijob", job.name, f"--namespace={namespace}")
    eventually(lambda: not left(), lambda: f"nothing is left of {left()}")
