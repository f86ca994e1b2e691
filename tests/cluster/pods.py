"""Pods without a container engine: processes in namespaces, made from pods as the API server holds them.

A pod gets a network namespace, its host name, its volumes as folders, its user and its environment, and then its own
command is process 1. What is left out: cgroups (its limits), NetworkPolicy, more than one container. It wants root.
"""

import base64
import contextlib
import itertools
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

INIT = Path(__file__).with_name("pod_init.py")
PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"  # as a container has it


class Volumes:
    """The volumes of one pod as folders: what the API server knows by name is fetched, emptyDirs are made."""

    def __init__(self, api, pod, directory):
        self.api, self.namespace, self.directory = api, pod["metadata"]["namespace"], directory
        self.group = pod["spec"]["securityContext"].get("fsGroup", 0)
        self.folders = {volume["name"]: self._folder(volume) for volume in pod["spec"]["volumes"]}

    def _folder(self, volume):
        if claim := volume.get("persistentVolumeClaim"):
            return self._of_claim(claim["claimName"])
        made = self.directory / volume["name"]
        made.mkdir(parents=True)
        if "configMap" in volume:
            self._write(made, volume["configMap"], self._data("configmaps", volume["configMap"]["name"], str.encode))
        elif "secret" in volume:
            self._write(made, volume["secret"], self._data("secrets", volume["secret"]["secretName"], base64.b64decode))
        else:
            assert "emptyDir" in volume, f"volume {volume} is of no kind that is known here"
            os.chown(made, 0, self.group)
            made.chmod(0o2777)
        return made

    def _of_claim(self, name):
        claim = self.api.get(f"/api/v1/namespaces/{self.namespace}/persistentvolumeclaims/{name}")
        volume = self.api.get(f"/api/v1/persistentvolumes/{claim['spec']['volumeName']}")
        return Path(volume["spec"]["hostPath"]["path"])

    def _data(self, kind, name, decode):
        found = self.api.get(f"/api/v1/namespaces/{self.namespace}/{kind}/{name}")
        return {key: decode(value) for key, value in found["data"].items()}

    def _write(self, folder, source, data):
        for item in source.get("items") or [{"key": key, "path": key} for key in data]:
            file = folder / item["path"]
            file.write_bytes(data[item["key"]])
            os.chown(file, 0, self.group)
            file.chmod(item.get("mode", source["defaultMode"]))


class Pod:
    """The one container of a pod; started again with start() after its end, as a kubelet does."""

    def __init__(self, api, pod, image, link, names, directory):
        self.link, self.directory, self.starts = link, directory, itertools.count(1)
        directory.mkdir(parents=True)
        (container,) = pod["spec"]["containers"]
        self.volumes = Volumes(api, pod, directory / "volumes")
        self.termination_log = directory / "termination-log"
        self.termination_log.touch()
        self.termination_log.chmod(0o666)
        self.spec = self._spec(pod["metadata"]["name"], pod["spec"], container) | {
            "image": str(image),
            "hosts": str(names.path),
        }
        self.process = None
        names.set(self.spec["hostname"], link.address)  # of every pod in every pod: a kubelet writes its own alone

    def _spec(self, name, pod, container):
        hostname = pod.get("hostname", name)
        environment = {one["name"]: one.get("value", "") for one in container.get("env", [])}
        return {
            "hostname": hostname,
            "termination_log": str(self.termination_log),
            "read_only_root": container["securityContext"]["readOnlyRootFilesystem"],
            "user": pod["securityContext"]["runAsUser"],
            "group": pod["securityContext"]["runAsGroup"],
            "directory": container.get("workingDir", "/"),
            "environment": {"PATH": PATH, "HOME": "/home/rankwise", "HOSTNAME": hostname} | environment,
            "command": [*container["command"], *container.get("args", [])],
            "mounts": [
                {
                    "source": str(self.volumes.folders[mount["name"]] / mount.get("subPath", "")),
                    "target": mount["mountPath"],
                    "read_only": mount.get("readOnly", False),
                }
                for mount in container["volumeMounts"]
            ],
        }

    def start(self):
        spec = self.spec | {"state": str(self.directory / f"container-{next(self.starts)}")}
        namespaces = ["unshare", "--mount", "--uts", "--ipc", "--pid", "--fork", "--kill-child"]
        command = ["ip", "netns", "exec", self.link.namespace, *namespaces, sys.executable, INIT, json.dumps(spec)]
        with (self.directory / "log").open("ab") as log:
            self.process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log)

    def output(self):
        return (self.directory / "log").read_text(errors="replace")

    def wait(self, timeout=None):
        """The exit code of process 1, 128 + N if signal N ended it; None if it runs after so many seconds."""
        try:
            code = self.process.wait(timeout)
        except subprocess.TimeoutExpired:
            return None
        return 128 - code if code < 0 else code

    def signal(self, number):
        """To process 1: the only child of unshare, seen from outside."""
        if self.process is None or self.process.poll() is not None:
            return
        with contextlib.suppress(ProcessLookupError, IndexError, FileNotFoundError):
            children = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text().split()
            handle = os.pidfd_open(int(children[0]))
            try:
                signal.pidfd_send_signal(handle, number)
            finally:
                os.close(handle)
