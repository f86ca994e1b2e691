"""The kubelet of every node of the test cluster: what runs is a runtime's affair, what is reported is a kubelet's.

A runtime has two methods, and reports what becomes of a pod whenever it knows:
    start(pod, report)   report(status), a part of the pod's status, may be called then and at any later time
    stop(pod)            returns when nothing of the pod runs any more, with its last status
`Played` is the one here: its containers do nothing, and the test says what becomes of them. pod_runtime.py has the one
that runs them.
"""

import itertools
import json
import threading
from datetime import UTC, datetime
from http.client import HTTPException

from api import Refused

TERMINATED_BY_SIGTERM = 143


def path(pod):
    return f"/api/v1/namespaces/{pod['metadata']['namespace']}/pods/{pod['metadata']['name']}"


class Kubelet:
    """Follows the pods that are bound to nodes, from the beginning of the block to its end."""

    def __init__(self, api, runtime):
        self.api = api
        self.runtime = runtime
        self.others = {}  # {namespace: the runtime of its pods}
        self.known, self.leaving = set(), set()
        self.ended = threading.Event()

    def __enter__(self):
        threading.Thread(target=self.follow, daemon=True).start()
        return self

    def __exit__(self, *_):
        self.ended.set()

    def follow(self):
        """Watches until the end; a watch that the server closes begins anew, with all pods that are there."""
        while not self.ended.is_set():
            try:
                for line in self.api.open("GET", "/api/v1/pods?watch=true", timeout=None):
                    event = json.loads(line)
                    if event["type"] in ("ADDED", "MODIFIED"):
                        self.see(event["object"])
            except (OSError, HTTPException):
                self.ended.wait(0.1)

    def see(self, pod):
        if "nodeName" not in pod["spec"]:
            return
        uid = pod["metadata"]["uid"]
        if "deletionTimestamp" in pod["metadata"]:
            if uid not in self.leaving:
                self.leaving.add(uid)
                threading.Thread(target=self.remove, args=[pod], daemon=True).start()  # pods leave at the same time
        elif uid not in self.known:
            self.known.add(uid)
            self.runtime_of(pod).start(pod, lambda status: self.report(pod, status))

    def runtime_of(self, pod):
        return self.others.get(pod["metadata"]["namespace"], self.runtime)

    def remove(self, pod):
        """A deleted pod ends before its object goes: the Job controller judges how it ended."""
        if pod["status"]["phase"] in ("Pending", "Running"):
            self.report(pod, self.runtime_of(pod).stop(pod))
        # Of this id alone: the operator may have made another of the same name already.
        self.ask("DELETE", path(pod), {"gracePeriodSeconds": 0, "preconditions": {"uid": pod["metadata"]["uid"]}})

    def evict(self, pod):
        """As for want of memory on the node, which no disruption budget can prevent."""
        disrupted = {"type": "DisruptionTarget", "status": "True", "reason": "TerminationByKubelet"}
        status = self.runtime_of(pod).stop(pod)
        status |= {"phase": "Failed", "reason": "Evicted", "message": "The node was low on resource: memory."}
        self.report(pod, status | {"conditions": [*status["conditions"], disrupted]})

    def report(self, pod, status):
        body = {"metadata": {"uid": pod["metadata"]["uid"]}, "status": status}
        self.ask("PATCH", f"{path(pod)}/status", body, "strategic-merge-patch+json")

    def ask(self, method, where, body, kind="json"):
        try:
            self.api.open(method, where, body, kind).read()
        except Refused as refused:
            if refused.status not in (404, 409):  # it was gone before, or there is another of its name
                raise
        except (OSError, HTTPException):
            if not self.ended.is_set():
                raise


class Played:
    """A started pod runs and is not ready; everything else is an order of the test."""

    def __init__(self):
        self.reports = {}
        self.addresses = (f"10.1.{n // 250}.{n % 250 + 1}" for n in itertools.count())

    def start(self, pod, report):
        self.reports[pod["metadata"]["uid"]] = report
        address = next(self.addresses)
        report(running(pod, ready=False) | {"podIP": address, "podIPs": [{"ip": address}]})

    def stop(self, pod):
        return ended(pod, TERMINATED_BY_SIGTERM)

    def order(self, pod, status):
        self.reports[pod["metadata"]["uid"]](status)

    def ready(self, pod):
        self.order(pod, running(pod, ready=True))

    def succeed(self, pod):
        self.order(pod, ended(pod, 0))

    def fail(self, pod, exit_code, message=""):
        """The first container ends; unless the pod says Never, it is started again in its place."""
        restarts = pod["spec"]["restartPolicy"] != "Never"
        self.order(pod, restarted(pod, exit_code) if restarts else ended(pod, exit_code, message))


# ---- what a kubelet says of a pod ----


def now():
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def conditions(ready):
    truth = str(ready)
    always = [{"type": name, "status": "True"} for name in ("Initialized", "PodReadyToStartContainers")]
    return [*always, *({"type": name, "status": truth} for name in ("ContainersReady", "Ready"))]


def containers(pod, state, **more):
    return [
        {"name": one["name"], "image": one["image"], "imageID": "", "restartCount": 0, "ready": False, "state": state}
        | more
        for one in pod["spec"]["containers"]
    ]


def running(pod, ready, **more):
    statuses = containers(pod, {"running": {"startedAt": now()}}, ready=ready, started=True, **more)
    return {"phase": "Running", "startTime": now(), "conditions": conditions(ready), "containerStatuses": statuses}


def terminated(exit_code, message=""):
    reason = "Error" if exit_code else "Completed"
    return {"terminated": {"exitCode": exit_code, "reason": reason, "message": message, "finishedAt": now()}}


def ended(pod, exit_code, message=""):
    statuses = containers(pod, terminated(exit_code, message))
    phase = "Failed" if exit_code else "Succeeded"
    return {"phase": phase, "conditions": conditions(ready=False), "containerStatuses": statuses}


def restarted(pod, exit_code):
    before = sum(one["restartCount"] for one in pod["status"].get("containerStatuses", []))
    return running(pod, ready=False, restartCount=before + 1, lastState=terminated(exit_code))
