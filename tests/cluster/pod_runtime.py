"""A runtime for kubelet.py that runs what the pods say: their commands, probes, restarts and ends."""

import contextlib
import ctypes
import json
import signal
import socket
import threading
import time
import urllib.error
import urllib.request
from http.client import HTTPException

import kubelet
from api import Refused
from network import Names, Network
from pods import Pod

CLONE_NEWNET = 0x40000000
LIBC = ctypes.CDLL(None, use_errno=True)
TICK = 0.1
KILLED = 137


def enter_network(name):
    """This thread's sockets are the pod's from now on."""
    with open(f"/run/netns/{name}", "rb") as file:
        if LIBC.setns(file.fileno(), CLONE_NEWNET) != 0:
            raise OSError(ctypes.get_errno(), f"setns {name}")


class Probe:
    """A readiness probe: `failureThreshold` failures in a row, and the pod is not ready any more."""

    def __init__(self, container):
        self.spec = container.get("readinessProbe")
        self.ports = {port["name"]: port["containerPort"] for port in container.get("ports", [])}
        self.ready = self.spec is None
        self.failures, self.next = 0, 0.0

    def look(self):
        if self.spec is None or time.monotonic() < self.next:
            return
        self.next = time.monotonic() + self.spec["periodSeconds"]
        self.failures = 0 if self._answers() else self.failures + 1
        self.ready = self.failures == 0 or (self.ready and self.failures < self.spec["failureThreshold"])

    def _answers(self):
        action = self.spec.get("tcpSocket") or self.spec["httpGet"]
        port = self.ports.get(action["port"], action["port"])
        seconds = self.spec["timeoutSeconds"]
        try:
            if "tcpSocket" in self.spec:
                socket.create_connection(("127.0.0.1", port), seconds).close()
            else:
                urllib.request.urlopen(f"http://127.0.0.1:{port}{action['path']}", timeout=seconds).close()
        except (OSError, urllib.error.URLError):
            return False
        return True


class LivePod(threading.Thread):
    """From a pod's start to its last end; reports what a kubelet reports."""

    def __init__(self, pod, processes, report):
        super().__init__(daemon=True)
        self.pod, self.processes, self.report = pod, processes, report
        (self.container,) = pod["spec"]["containers"]
        self.leaving, self.lock = threading.Event(), threading.Lock()
        self.restarts, self.status = 0, None

    def run(self):
        enter_network(self.processes.link.namespace)
        address = {"podIP": self.processes.link.address, "podIPs": [{"ip": self.processes.link.address}]}
        self.report({"phase": "Pending"} | address)
        code = self._live_once()
        while code and self.pod["spec"]["restartPolicy"] != "Never" and not self.leaving.is_set():
            self.restarts += 1
            code = self._live_once(lastState=kubelet.terminated(code))
        self.status = kubelet.ended(self.pod, code, self.processes.termination_log.read_text())
        if not self.leaving.is_set():
            self.report(self.status)

    def _live_once(self, **more):
        probe, said = Probe(self.container), None
        with self.lock:
            if self.leaving.is_set():
                return KILLED
            self.processes.start()
        while (code := self.processes.wait(TICK)) is None:
            probe.look()
            if said != probe.ready and not self.leaving.is_set():
                said = probe.ready
                self.report(kubelet.running(self.pod, said, restartCount=self.restarts, **more))
        return code

    def leave(self, grace):
        """As a kubelet ends a pod: SIGTERM, and SIGKILL when the grace is over. Returns the last status."""
        with self.lock:
            self.leaving.set()
            self.processes.signal(signal.SIGTERM)
        self.join(grace)
        if self.is_alive():
            self.processes.signal(signal.SIGKILL)
            self.join()
        return self.status


class PodRuntime:
    """The pods of one Kubernetes namespace, on a network of their own, from the beginning of the block to its end."""

    def __init__(self, api, namespace, image, directory):
        self.api, self.namespace, self.image, self.directory = api, namespace, image, directory
        self.network, self.names = Network(), Names(directory / "hosts")
        self.live, self.ended = {}, threading.Event()

    def __enter__(self):
        self.network.__enter__()
        threading.Thread(target=self._follow_names, daemon=True).start()
        return self

    def __exit__(self, *_):
        self.ended.set()
        for live in list(self.live.values()):
            live.leave(grace=0)
        self.network.__exit__()

    def start(self, pod, report):
        if self.ended.is_set():
            return
        name, uid = pod["metadata"]["name"], pod["metadata"]["uid"]
        link = self.network.add()
        processes = Pod(self.api, pod, self.image, link, self.names, self.directory / f"{name}-{uid[:8]}")
        self.live[uid] = LivePod(pod, processes, report)
        self.live[uid].start()

    def stop(self, pod):
        live = self.live.get(pod["metadata"]["uid"])
        grace = pod["metadata"].get("deletionGracePeriodSeconds", pod["spec"]["terminationGracePeriodSeconds"])
        return live.leave(grace) if live else kubelet.ended(pod, KILLED)

    def output(self, pod):
        return self.live[pod["metadata"]["uid"]].processes.output()

    def folder(self, pod, volume):
        """What the pod's containers have mounted of that name."""
        return self.live[pod["metadata"]["uid"]].processes.volumes.folders[volume]

    def link(self, pod):
        return self.live[pod["metadata"]["uid"]].processes.link

    def outputs(self):
        """The end of what every pod said, for a test that failed."""
        return "\n".join(
            f"---- {live.pod['metadata']['name']}\n{live.processes.output()[-4000:]}" for live in self.live.values()
        )

    def _follow_names(self):
        """What the cluster's DNS would answer: the pods of each service that are ready, by host name."""
        path = f"/apis/discovery.k8s.io/v1/namespaces/{self.namespace}/endpointslices?watch=true"
        while not self.ended.is_set():
            with contextlib.suppress(OSError, HTTPException, Refused):
                for line in self.api.open("GET", path, timeout=None):
                    event = json.loads(line)
                    self._learn(event["object"], event["type"] == "DELETED")
            self.ended.wait(TICK)

    def _learn(self, piece, gone):
        service = piece["metadata"]["labels"]["kubernetes.io/service-name"]
        for endpoint in piece.get("endpoints") or []:
            ready = endpoint["conditions"]["ready"] and not gone
            name = f"{endpoint.get('hostname', '')}.{service}.{self.namespace}.svc"
            self.names.set(name, endpoint["addresses"][0] if ready else None)
