"""The MPIJob of k8s/overlays/mpijob as pods: what the MPI operator adds to its templates, written after its 0.6.0."""

import copy
import os
import shutil
import subprocess

from manifests import of_kind
from pods import Pod, Volumes
from runs import Run

SSH, HOSTS = "ssh-auth", "mpi-job-config"


def keys(directory):
    """The Secret of a job, as it is mounted: everything is root's and readable."""
    directory.mkdir()
    subprocess.run(["ssh-keygen", "-q", "-t", "ecdsa", "-b", "521", "-N", "", "-f", directory / "id_rsa"], check=True)
    shutil.copy(directory / "id_rsa.pub", directory / "authorized_keys")
    for path in directory.iterdir():
        path.chmod(0o644)
    return directory


class MpiJob:
    """Templates, volumes and names of a job; pods are started one by one, as the operator does. One rank a worker."""

    def __init__(self, directory, tiny, image, network, workers=2, **settings):
        (self.manifest,) = of_kind("mpijob", "MPIJob")
        self.name, self.spec = self.manifest["metadata"]["name"], self.manifest["spec"]
        self.image, self.network, self.workers = image, network, workers
        self.run = self._put_in_place(directory, tiny, settings)
        folders = {"rankwise-train": directory / "config", "rankwise": directory / "claim"}
        secrets = {SSH: keys(directory / "ssh"), HOSTS: self._hostfile(directory / "hosts-of-job")}
        self.volumes = Volumes(directory / "pods", **folders | secrets)

    def _put_in_place(self, directory, tiny, settings):
        claim = directory / "claim"
        shutil.copytree(tiny.directory, claim / "models/tiny", ignore=shutil.ignore_patterns("cache"))
        for path in [claim / "models/tiny", *(claim / "models").rglob("*")]:  # made for their owner alone
            path.chmod(0o755 if path.is_dir() else 0o644)
        (claim / "data").mkdir()
        (claim / "runs").mkdir()
        os.chown(claim / "runs", 1000, 1000)
        inside = {"path": "/models/tiny/train.jsonl", "format": "messages"}
        changes = {
            "run": {"output_dir": "/runs/tiny"},
            "model": {"path": "/models/tiny/model"},
            "data": {"train": [inside], "cache_dir": "/runs/cache"},
            "comms": {"timeout_seconds": 10},
        }
        run = Run(directory / "config", tiny.settings(**changes | settings))
        run.config.rename(run.config.with_name("train.yaml"))
        run.output = claim / "runs/tiny"
        return run

    def _hostfile(self, directory):
        directory.mkdir()
        lines = [f"{self.host(index)} slots=1\n" for index in range(self.workers)]
        (directory / "hostfile").write_text("".join(lines))
        return directory

    def host(self, index):
        return f"{self.name}-worker-{index}.{self.name}.training.svc"

    def _template(self, role):
        template = copy.deepcopy(self.spec["mpiReplicaSpecs"][role]["template"])
        (container,) = template["spec"]["containers"]
        self._add(template, container, SSH, self.spec["sshAuthMountPath"], {"secret": {"secretName": SSH}})
        container.setdefault("env", []).append({"name": "K_MPI_JOB_ROLE", "value": role.lower()})
        if role == "Launcher":
            self._add(template, container, HOSTS, "/etc/mpi", {"configMap": {"name": HOSTS}})
            container["env"] += [{"name": name, "value": value} for name, value in self._open_mpi().items()]
        return template

    @staticmethod
    def _add(template, container, name, path, source):
        container["volumeMounts"].append({"name": name, "mountPath": path, "readOnly": True})
        template["spec"]["volumes"].append({"name": name} | source)

    @staticmethod
    def _open_mpi():
        return {
            "OMPI_MCA_orte_keep_fqdn_hostnames": "true",
            "OMPI_MCA_orte_default_hostfile": "/etc/mpi/hostfile",
            "OMPI_MCA_plm_rsh_args": "-o ConnectionAttempts=10",
            "OMPI_MCA_orte_set_default_slots": "1",
            "NVIDIA_VISIBLE_DEVICES": "",
            "NVIDIA_DRIVER_CAPABILITIES": "",
        }

    def worker(self, index, attempt=0):
        name = f"{self.name}-worker-{index}"
        return self._pod(f"{name}.{attempt}" if attempt else name, "Worker", hostname=name, aliases=[self.host(index)])

    def launcher(self, attempt=0):
        return self._pod(f"{self.name}-launcher-{attempt}", "Launcher", hostname=f"{self.name}-launcher")

    def _pod(self, name, role, **names):
        return Pod(name, self._template(role), self.image, self.network, self.volumes, **names)
