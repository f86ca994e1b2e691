"""The operators' own Go types and validation, without a cluster: types/main.go says what it reads.

What is refused here and not by the API server is why this test is there: the operator reports it by an event that
nobody waits for, or not at all, and the job stands still.
"""

import subprocess

import pytest
import yaml

from overlays import EXAMPLE, OVERLAYS, changed, of_example, programs, text

WORKER = "spec.mpiReplicaSpecs.Worker"
LAUNCHER = "spec.mpiReplicaSpecs.Launcher"

# (what is changed in the example, to what, what is said of it)
REFUSED_BY_BOTH = [
    ("spec.slotPerWorker", 8, 'unknown field "spec.slotPerWorker"'),
    (f"{WORKER}.template.spec.securityContxt", {}, f'unknown field "{WORKER}.template.spec.securityContxt"'),
    ("spec.slotsPerWorker", "8", "cannot unmarshal string"),
    (f"{WORKER}.template.spec.containers.0.resources.limits", {"memory": "128Gigs"}, "quantities must match"),
    ("spec.mpiImplementation", "OpenMPi", 'spec.mpiImplementation: Unsupported value: "OpenMPi"'),
]
REFUSED_HERE_ALONE = [
    ("spec.launcherCreationPolicy", "Whenever", 'spec.launcherCreationPolicy: Unsupported value: "Whenever"'),
    ("spec.runPolicy.cleanPodPolicy", "Sometimes", 'spec.runPolicy.cleanPodPolicy: Unsupported value: "Sometimes"'),
    (f"{WORKER}.restartPolicy", "Always", 'spec.mpiReplicaSpecs[Worker].restartPolicy: Unsupported value: "Always"'),
    (f"{LAUNCHER}.restartPolicy", "Exit", 'spec.mpiReplicaSpecs[Launcher].restartPolicy: Unsupported value: "Exit"'),
    ("metadata.name", "a" * 60, "metadata.name: Invalid value"),
]
OTHER_KINDS = [  # (group and version, kind, spec, the unknown field in it)
    ("batch/v1", "Job", {"completionsMode": "Indexed"}, "spec.completionsMode"),
    ("policy/v1", "PodDisruptionBudget", {"minAvailible": 2}, "spec.minAvailible"),
    ("jobset.x-k8s.io/v1alpha2", "JobSet", {"replicatedJob": []}, "spec.replicatedJob"),
    ("trainer.kubeflow.org/v1alpha1", "TrainJob", {"trainr": {}}, "spec.trainr"),
    ("trainer.kubeflow.org/v1alpha1", "ClusterTrainingRuntime", {"mlPolicy": {"mp": {}}}, "spec.mlPolicy.mp"),
    ("monitoring.coreos.com/v1", "PodMonitor", {"podMetricsEndpoint": []}, "spec.podMetricsEndpoint"),
    ("monitoring.coreos.com/v1", "PrometheusRule", {"groups": [{"rule": []}]}, "spec.groups[0].rule"),
]


def check(manifests):
    return subprocess.run([programs() / "manifest-check"], input=manifests, capture_output=True, text=True, timeout=60)


def refusal(document):
    checked = check(yaml.safe_dump(document))
    assert checked.returncode == 1, f"accepted: {document}"
    return checked.stdout


@pytest.mark.parametrize("overlay", [EXAMPLE, *OVERLAYS])
def test_overlay_is_accepted(overlay):
    checked = check(text(overlay))
    assert (checked.returncode, checked.stdout, checked.stderr) == (0, "", "")


@pytest.mark.parametrize("path, value, said", REFUSED_BY_BOTH + REFUSED_HERE_ALONE)
def test_mpijob_is_refused(path, value, said):
    assert said in refusal(changed(of_example("MPIJob"), path, value))


@pytest.mark.parametrize("policy", ["AtStartup", "WaitForWorkersReady"])
def test_launcher_creation_policy_is_accepted(policy):
    checked = check(yaml.safe_dump(changed(of_example("MPIJob"), "spec.launcherCreationPolicy", policy)))
    assert checked.stdout == ""


def test_key_twice_is_refused():
    """The API server never sees it: kubectl keeps the last."""
    twice = text(EXAMPLE).replace("  slotsPerWorker: 8\n", "  slotsPerWorker: 8\n  slotsPerWorker: 4\n")
    checked = check(twice)
    assert checked.returncode == 1 and 'key "slotsPerWorker" already set' in checked.stdout


@pytest.mark.parametrize("version, kind, spec, field", OTHER_KINDS)
def test_other_kind_is_refused(version, kind, spec, field):
    assert f'unknown field "{field}"' in refusal({"apiVersion": version, "kind": kind, "spec": spec})


def test_unknown_version_is_refused():
    assert 'no kind "MPIJob"' in refusal({"apiVersion": "kubeflow.org/v1", "kind": "MPIJob"})
