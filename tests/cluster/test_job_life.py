"""The life of a Job for one host under the real Job controller: which ends of its pod are tried again."""

import pytest

from jobs import DECIDED_BY_THE_INPUT, uid
from overlays import EXAMPLE, OVERLAYS, of_kind

WITH_JOB = [overlay for overlay in [EXAMPLE, *OVERLAYS] if of_kind(overlay, "Job")]
LOST_RANK = 71


def one_running(job):
    (pod,) = job.running(1)
    return pod


@pytest.mark.parametrize("exit_code", DECIDED_BY_THE_INPUT)
@pytest.mark.parametrize("overlay", WITH_JOB)
def test_what_the_input_decides_is_not_tried_again(start_job, kubelet, overlay, exit_code):
    job = start_job(overlay=overlay)
    kubelet.runtime.fail(one_running(job), exit_code)
    assert job.reaches("Failed") == "PodFailurePolicy"
    assert len(job.pods()) == 1


@pytest.mark.parametrize("overlay", WITH_JOB)
def test_a_lost_rank_is_tried_again(start_job, kubelet, overlay):
    job = start_job(overlay=overlay)
    lost = one_running(job)
    kubelet.runtime.fail(lost, LOST_RANK)
    again = one_running(job)
    assert uid(again) != uid(lost)
    kubelet.runtime.succeed(again)
    job.reaches("Complete")


def test_the_limit_of_failures_is_kept(start_job, kubelet):
    job = start_job({"spec.backoffLimit": 0})
    kubelet.runtime.fail(one_running(job), LOST_RANK)
    assert job.reaches("Failed") == "BackoffLimitExceeded"


@pytest.mark.parametrize("overlay", WITH_JOB)
def test_eviction_by_the_node_does_not_count(start_job, kubelet, overlay):
    job = start_job({"spec.backoffLimit": 0}, overlay)
    evicted = one_running(job)
    kubelet.evict(evicted)
    assert uid(one_running(job)) != uid(evicted)
    assert "failed" not in job.status() and job.condition("Failed") is None


def test_eviction_by_request_does_not_count(start_job, cluster, namespace):
    """As `kubectl drain` asks for it."""
    job = start_job({"spec.backoffLimit": 0})
    evicted = one_running(job)
    name = evicted["metadata"]["name"]
    eviction = {"apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": name, "namespace": namespace}}
    cluster.api.post(f"/api/v1/namespaces/{namespace}/pods/{name}/eviction", eviction)
    job.loses(evicted)
    assert uid(one_running(job)) != uid(evicted)
    assert "failed" not in job.status() and job.condition("Failed") is None
