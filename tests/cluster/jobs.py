"""A job that a test has started in its namespace: what became of it, and what a test does to its pods."""

import yaml

from api import eventually
from overlays import changed, pod_templates, served

ROLE = "training.kubeflow.org/job-role"
DECIDED_BY_THE_INPUT = [64, 65, 66, 77, 78]  # README, "Exit codes": another start ends the same way


def start(cluster, namespace, overlay, kind, changes, config=None, volume="/volume"):
    """Applies an overlay with its one job of a kind, changed: {path: value}, and no other job. Returns that object.

    `config` takes the place of the configuration that the overlay has, `volume` is the folder behind its claims.
    """
    others = [one for one in served(overlay) if not pod_templates(one)]
    (job,) = (one for one in served(overlay) if one["kind"] == kind)
    for path, value in changes.items():
        job = changed(job, path, value)
    if config:
        (configuration,) = (one for one in others if one["kind"] == "ConfigMap")
        configuration["data"] = {"train.yaml": config}
    add_volumes(cluster, namespace, others, volume)
    cluster.kubectl("apply", f"--namespace={namespace}", "-f", "-", input=yaml.safe_dump_all([*others, job]))
    return job


def add_volumes(cluster, namespace, documents, folder):
    """A volume for each claim, as no provisioner runs here."""
    for claim in (one for one in documents if one["kind"] == "PersistentVolumeClaim"):
        name = claim["metadata"]["name"]
        spec = {
            "capacity": claim["spec"]["resources"]["requests"],
            "accessModes": claim["spec"]["accessModes"],
            "claimRef": {"namespace": namespace, "name": name},
            "hostPath": {"path": str(folder)},
        }
        metadata = {"name": f"{namespace}-{name}"}
        volume = {"apiVersion": "v1", "kind": "PersistentVolume", "metadata": metadata, "spec": spec}
        cluster.kubectl("apply", "-f", "-", input=yaml.safe_dump(volume))


class Job:
    """A batch/v1 Job, or with another path the MPIJob."""

    collection = "/apis/batch/v1/namespaces/{}/jobs/"

    def __init__(self, cluster, kubelet, namespace, name):
        self.api = cluster.api
        self.kubelet = kubelet
        self.namespace = namespace
        self.name = name
        self.path = self.collection.format(namespace) + name

    def status(self):
        return self.api.get(self.path).get("status", {})

    def condition(self, name):
        """(status, reason), or None as long as there is no such condition."""
        found = [one for one in self.status().get("conditions", []) if one["type"] == name]
        return (found[0]["status"], found[0].get("reason")) if found else None

    def reaches(self, name, status="True", seconds=60):
        """Waits for a condition and returns its reason."""
        what = f"{self.path} has condition {name}={status}"
        eventually(
            lambda: (self.condition(name) or (None,))[0] == status,
            lambda: f"{what}; status: {self.status()}; {self.warnings()}",
            seconds,
        )
        return self.condition(name)[1]

    def warnings(self):
        """What the controllers complain of: an operator that cannot go on says so by events alone."""
        events = self.api.get(f"/api/v1/namespaces/{self.namespace}/events?fieldSelector=type=Warning")["items"]
        return f"warnings: {sorted({event['message'] for event in events})}"

    def select(self, selector):
        found = self.api.get(f"/api/v1/namespaces/{self.namespace}/pods?labelSelector={selector}")["items"]
        for pod in found:
            pod |= {"apiVersion": "v1", "kind": "Pod"}
        return sorted(found, key=lambda pod: (pod["metadata"]["creationTimestamp"], pod["metadata"]["name"]))

    def pods(self):
        return self.select(f"batch.kubernetes.io/job-name={self.name}")

    def running(self, count, pods=None):
        """Waits until so many pods run, and returns them."""
        pods = pods or self.pods

        def found():
            runs = [pod for pod in pods() if phase(pod) == "Running" and "deletionTimestamp" not in pod["metadata"]]
            return runs if len(runs) == count else None

        return eventually(found, lambda: f"{count} pods run, of {list(map(phase, pods()))}; {self.warnings()}")

    def loses(self, pod, what=None):
        """Waits until that pod, and not one of its name, is gone; `what` is for the failure, as of eventually()."""
        eventually(lambda: uid(pod) not in map(uid, self.pods()), what or f"{pod['metadata']['name']} is gone")


class MpiJob(Job):
    collection = "/apis/kubeflow.org/v2beta1/namespaces/{}/mpijobs/"

    def pods(self):
        return self.select(f"training.kubeflow.org/job-name={self.name}")

    def workers(self):
        return [pod for pod in self.pods() if pod["metadata"]["labels"][ROLE] == "worker"]

    def launchers(self):
        return [pod for pod in self.pods() if pod["metadata"]["labels"][ROLE] == "launcher"]

    def launcher_job(self):
        return self.api.find(f"/apis/batch/v1/namespaces/{self.namespace}/jobs/{self.name}-launcher")

    def replicas(self):
        return self.api.get(self.path)["spec"]["mpiReplicaSpecs"]["Worker"]["replicas"]

    def running_workers(self):
        return self.running(self.replicas(), self.workers)

    def running_launcher(self):
        """The one that runs once every worker is ready."""
        for worker in self.running_workers():
            self.kubelet.runtime.ready(worker)
        (launcher,) = self.running(1, self.launchers)
        return launcher


def phase(pod):
    return pod["status"]["phase"]


def uid(pod):
    return pod["metadata"]["uid"]
