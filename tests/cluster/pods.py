"""Pods without a container engine: processes in namespaces, made from the pod templates of the manifests.

A pod gets a network namespace on a bridge that it shares with the others, its host name, its volumes as folders, its
user and its environment, and then its own command is process 1. What is left out: probes, cgroups (its limits), DNS
(names stand in /etc/hosts), NetworkPolicy. It wants root.
"""

import contextlib
import itertools
import json
import os
import select
import signal
import subprocess
import sys
from pathlib import Path

INIT = Path(__file__).with_name("pod_init.py")
PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"  # as a container has it
NUMBERS = itertools.count(1)


def ip(*words):
    subprocess.run(["ip", *map(str, words)], check=True)


class Network:
    """A namespace with a bridge, and the file of all names on it."""

    def __init__(self, directory):
        self.name = f"rankwise-{os.getpid()}-{next(NUMBERS)}"
        self.hosts = directory / "hosts"
        self.hosts.write_text("127.0.0.1 localhost\n")
        self.namespaces = []

    def __enter__(self):
        self._add_namespace(self.name)
        ip("-n", self.name, "link", "add", "bridge", "type", "bridge")
        ip("-n", self.name, "link", "set", "bridge", "up")
        return self

    def __exit__(self, *_):
        for name in self.namespaces:
            ip("netns", "delete", name)

    def _add_namespace(self, name):
        ip("netns", "add", name)
        self.namespaces.append(name)
        ip("-n", name, "link", "set", "lo", "up")

    def add(self, names):
        """A namespace for a pod of these names; returns what it is called."""
        number = len(self.namespaces)
        name, outside, address = f"{self.name}-{number}", f"pod{number}", f"10.88.0.{number}"
        self._add_namespace(name)
        ip("-n", self.name, "link", "add", outside, "type", "veth", "peer", "name", "eth0", "netns", name)
        ip("-n", self.name, "link", "set", outside, "master", "bridge", "up")
        ip("-n", name, "address", "add", f"{address}/24", "dev", "eth0")
        ip("-n", name, "link", "set", "eth0", "up")
        with self.hosts.open("a") as file:  # in place: it is mounted in the pods
            file.write(f"{address} {' '.join(names)}\n")
        return name

    def cut(self, namespace):
        """The pod hears and says nothing any more."""
        ip("-n", namespace, "link", "set", "eth0", "down")


class Volumes:
    """Where the volumes of a pod come from: claims, ConfigMaps and Secrets by name, as folders; emptyDirs are made."""

    def __init__(self, directory, **folders):
        self.directory, self.folders = directory, {name.replace("_", "-"): Path(path) for name, path in folders.items()}

    def folder(self, volume, pod):
        for kind, key in [("persistentVolumeClaim", "claimName"), ("configMap", "name"), ("secret", "secretName")]:
            if kind in volume:
                return self.folders[volume[kind][key]]
        made = self.directory / pod / volume["name"]
        made.mkdir(parents=True, exist_ok=True)
        made.chmod(0o1777)
        return made


class Pod:
    """One container of a pod template, running from construction on."""

    def __init__(self, name, template, image, network, volumes, hostname=None, aliases=()):
        self.name, self.directory = name, volumes.directory / name
        self.directory.mkdir(parents=True)
        (container,) = template["spec"]["containers"]
        hostname = hostname or name
        self.namespace = network.add([hostname, *aliases])
        self.termination_log = self.directory / "termination-log"
        self.termination_log.touch()
        self.termination_log.chmod(0o666)
        spec = self._spec(template["spec"], container, image, volumes) | {
            "hostname": hostname,
            "hosts": str(network.hosts),
        }
        self.grace = template["spec"]["terminationGracePeriodSeconds"]
        self._start(spec)

    def _spec(self, pod, container, image, volumes):
        by_name = {volume["name"]: volume for volume in pod["volumes"]}
        environment = {one["name"]: one["value"] for one in container.get("env", [])}
        return {
            "state": str(self.directory / "state"),
            "image": str(image),
            "termination_log": str(self.termination_log),
            "read_only_root": container["securityContext"]["readOnlyRootFilesystem"],
            "user": pod["securityContext"]["runAsUser"],
            "group": pod["securityContext"]["runAsGroup"],
            "directory": container.get("workingDir", "/"),
            "environment": {"PATH": PATH, "HOME": "/home/rankwise", "HOSTNAME": self.name} | environment,
            "command": [*container["command"], *container.get("args", [])],
            "mounts": [
                {
                    "source": str(volumes.folder(by_name[mount["name"]], self.name) / mount.get("subPath", "")),
                    "target": mount["mountPath"],
                    "read_only": mount.get("readOnly", False),
                }
                for mount in container["volumeMounts"]
            ],
        }

    def _start(self, spec):
        namespaces = ["unshare", "--mount", "--uts", "--ipc", "--pid", "--fork", "--kill-child"]
        command = ["ip", "netns", "exec", self.namespace, *namespaces, sys.executable, INIT, json.dumps(spec)]
        self.log = (self.directory / "log").open("w+b")
        self.process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=self.log, stderr=self.log)

    def output(self):
        return (self.directory / "log").read_text(errors="replace")

    def running(self):
        return self.process.poll() is None

    def wait(self, timeout):
        """The exit code of process 1; 128 + N if signal N ended it."""
        code = self.process.wait(timeout)
        return 128 - code if code < 0 else code

    def first_process(self):
        """The id, seen from outside, of what is process 1 inside: the only child of unshare."""
        children = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text().split()
        return int(children[0])

    def signal(self, number):
        with contextlib.suppress(ProcessLookupError, IndexError, FileNotFoundError):
            handle = os.pidfd_open(self.first_process())
            try:
                signal.pidfd_send_signal(handle, number)
            finally:
                os.close(handle)

    def delete(self, grace=None):
        """As a kubelet ends a pod: SIGTERM, and SIGKILL when the grace is over. Returns the exit code."""
        if self.running():
            self.signal(signal.SIGTERM)
            handle = os.pidfd_open(self.process.pid)
            if not select.select([handle], [], [], self.grace if grace is None else grace)[0]:
                self.signal(signal.SIGKILL)
            os.close(handle)
        return self.wait(30)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        if self.running():
            self.signal(signal.SIGKILL)
            self.process.wait(30)
        self.log.close()
