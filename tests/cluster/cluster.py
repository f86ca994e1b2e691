#!/usr/bin/env python3
"""A Kubernetes control plane and the MPI operator as processes, without a container engine.

    python tests/cluster/cluster.py up DIR      start it; DIR will hold its logs, data and kubeconfig
    python tests/cluster/cluster.py down DIR    end it

Everything is real but the nodes: two objects with 8 GPUs each, whose kubelet is played (kubelet.py).
"""

import argparse
import os
import subprocess
import sys
import time
from pathlib import Path

import components
from api import Api, eventually
from sandbox import Sandbox

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "tools"))
import cluster_build  # noqa: E402

NODES = ["node-a", "node-b"]
RESTRICTED = {"pod-security.kubernetes.io/enforce": "restricted"}
PRIVILEGED = {"pod-security.kubernetes.io/enforce": "privileged"}
START_SECONDS = 300  # a free machine takes 9


class Cluster:
    """Starts with the block and ends with it, even when the process that runs the block is killed."""

    def __init__(self, folder, outlives_us=False):
        self.folder = Path(folder).resolve()
        self.programs = cluster_build.folder()
        self.outlives_us = outlives_us
        self.running = {}
        self.api = Api(self.folder / "api.sock")

    def __enter__(self):
        if not self.programs.exists():
            raise RuntimeError("the control plane is not built: run tools/cluster_build.py (10 to 25 minutes)")
        self.folder.mkdir(parents=True, exist_ok=True)
        self.sandbox = Sandbox.start(self.outlives_us)
        try:
            (self.folder / "sandbox.pid").write_text(str(self.sandbox.pid))
            self.start()
        except BaseException:
            self.sandbox.end()
            raise
        return self

    def __exit__(self, *_):
        self.sandbox.end()
        for process in self.running.values():
            process.wait()

    # ---- start ----

    def start(self):
        components.write_files(self.folder)
        for component in (components.etcd, components.apiserver, components.proxy):
            self.launch(component)
        self.eventually(lambda: self.api.open("GET", "/readyz").read() == b"ok", "the API server is ready")
        for component in (components.controller_manager, components.scheduler):
            self.launch(component)
        self.apply_manifests()
        for name in NODES:
            self.add_node(name)
        self.start_operator()

    def launch(self, component):
        program, *arguments = component(self.folder)
        name = component.__name__
        self.running[name] = self.sandbox.launch([self.programs / program, *arguments], self.log(name))

    def apply_manifests(self):
        """The operators' types and roles. On the server's side: the MPIJob type is too large for an annotation."""
        self.kubectl("apply", "--server-side", "-f", self.programs / "manifests.yaml")
        self.kubectl("wait", "--for=condition=Established", "crd", "--all", f"--timeout={START_SECONDS}s")

    def add_node(self, name):
        amounts = {"cpu": "192", "memory": "2Ti", "pods": "110", "nvidia.com/gpu": "8"}
        conditions = [{"type": "Ready", "status": "True"}]
        status = {"capacity": amounts, "allocatable": amounts, "conditions": conditions}
        labels = {"kubernetes.io/hostname": name, "kubernetes.io/os": "linux", "kubernetes.io/arch": "amd64"}
        metadata = {"name": name, "labels": labels}
        self.api.post("/api/v1/nodes", {"kind": "Node", "metadata": metadata, "status": status})
        # The server taints a new node; the controller that would take the taint off again does not run here.
        self.api.patch(f"/api/v1/nodes/{name}", {"spec": {"taints": None}})

    def start_operator(self):
        token = self.kubectl("create", "token", "mpi-operator", "--namespace=mpi-operator", "--duration=24h")
        components.write_kubeconfig(self.folder / "operator.kubeconfig", token.strip())
        self.launch(components.operator)
        lease = "/apis/coordination.k8s.io/v1/namespaces/mpi-operator/leases/mpi-operator"
        self.eventually(lambda: self.api.find(lease), "the MPI operator works")

    # ---- use ----

    def run(self, *arguments, **options):
        """A kubectl command to its end, whatever that is."""
        command = [self.programs / "kubectl", f"--kubeconfig={self.folder / 'kubeconfig'}", *arguments]
        environment = os.environ | {"KUBECACHEDIR": str(self.folder / "kubectl-cache")}
        return subprocess.run(
            self.sandbox.inside(command),
            capture_output=True,
            text=True,
            timeout=START_SECONDS,
            env=environment,
            **options,
        )

    def kubectl(self, *arguments, **options):
        """Its output; fails with what it said if it failed."""
        done = self.run(*arguments, **options)
        if done.returncode != 0:
            raise AssertionError(f"kubectl {' '.join(map(str, arguments))}: {done.stderr or done.stdout}")
        return done.stdout

    def new_namespace(self, name, labels):
        metadata = {"name": name, "labels": labels}
        self.api.post("/api/v1/namespaces", {"kind": "Namespace", "metadata": metadata})
        account = f"/api/v1/namespaces/{name}/serviceaccounts/default"
        self.eventually(lambda: self.api.find(account), f"namespace {name} has its service account")

    # ---- watch over the components ----

    def log(self, name):
        return self.folder / f"{name}.log"

    def eventually(self, condition, what):
        """Like api.eventually, but a component that ended is told at once, with the end of its log."""

        def alive_and_condition():
            for name, process in self.running.items():
                if process.poll() is not None:
                    raise RuntimeError(f"{name} ended with status {process.returncode}:\n{self.last_lines(name)}")
            return condition()

        try:
            return eventually(alive_and_condition, what, START_SECONDS)
        except AssertionError as late:
            logs = "\n".join(f"-- {name}\n{self.last_lines(name)}" for name in self.running)
            raise AssertionError(f"{late}\n{logs}") from None

    def last_lines(self, name, count=10):
        return "\n".join(self.log(name).read_text(errors="replace").splitlines()[-count:])


def up(folder):
    began = time.monotonic()
    cluster = Cluster(folder, outlives_us=True)
    cluster.__enter__()
    enter = " ".join(
        cluster.sandbox.inside([cluster.programs / "kubectl", f"--kubeconfig={cluster.folder}/kubeconfig"])
    )
    print(f"cluster: up after {time.monotonic() - began:.1f} s; use it with\n  {enter} get nodes")


def down(folder):
    file = folder / "sandbox.pid"
    if not file.exists():
        raise cluster_build.ToolFailure(f"{folder} holds no cluster")
    Sandbox(int(file.read_text())).end()
    file.unlink()
    print("cluster: down")


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("action", choices=["up", "down"])
    parser.add_argument("folder", type=Path, metavar="DIR")
    arguments = parser.parse_args(argv)
    action = {"up": up, "down": down}[arguments.action]
    return cluster_build.run("cluster", lambda: action(arguments.folder))


if __name__ == "__main__":
    sys.exit(main())
