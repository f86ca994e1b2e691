"""The images, run: what the MPI operator makes of the overlay `mpijob` trains, with sshd, mpirun and ssh; so does the demo."""

import contextlib
import os
import re
import shutil
import subprocess
import sys

import pytest

from api import eventually
from image import demo_layers, layers
from jobs import uid
from overlays import containers_of
from pod_runtime import PodRuntime
from program import ROOT
from runs import Run

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="namespaces and mounts want root")
LONG = {"train": {"max_steps": 4000, "save_steps": 10}}
FEW_SLOTS = {"spec.slotsPerWorker": 1}
RESTARTED_IN_PLACE = "waiting for hosts"
RESUMED = r"continuing behind step (\d+)"


@pytest.fixture(scope="module")
def image(tmp_path_factory):
    assert shutil.which("debootstrap") and shutil.which("ip"), "apt-get install debootstrap iproute2"
    return layers(tmp_path_factory.mktemp("image"))


@pytest.fixture(scope="module")
def demo_image(image, tmp_path_factory):
    return demo_layers(tmp_path_factory.mktemp("demo"), image)


@pytest.fixture
def run_pods(cluster, kubelet, namespace, tmp_path):
    """run_pods(image): from then on the pods of this namespace are run, not played."""
    with contextlib.ExitStack() as stack:

        def run(image):
            kubelet.others[namespace] = stack.enter_context(PodRuntime(cluster.api, namespace, image, tmp_path))
            return kubelet.others[namespace]

        yield run


@pytest.fixture
def pods(run_pods, image):
    return run_pods(image)


class Training:
    """The overlay's MPIJob with the tiny model on its volume: two workers with a rank each, on CPUs."""

    def __init__(self, directory, tiny, pods, start_mpijob, changes=None, **settings):
        self.pods, self.start_mpijob = pods, start_mpijob
        self.claim = directory / "claim"
        self._lay_out(tiny)
        self.run = self._configured(directory, tiny, settings)
        self.begin(changes or {})

    def _lay_out(self, tiny):
        shutil.copytree(tiny.directory, self.claim / "models/tiny", ignore=shutil.ignore_patterns("cache"))
        for path in [self.claim / "models/tiny", *(self.claim / "models").rglob("*")]:  # made for their owner alone
            path.chmod(0o755 if path.is_dir() else 0o644)
        (self.claim / "data").mkdir()
        (self.claim / "runs").mkdir()
        os.chown(self.claim / "runs", 1000, 1000)

    def _configured(self, directory, tiny, settings):
        inside = {"path": "/models/tiny/train.jsonl", "format": "messages"}
        changes = {
            "run": {"output_dir": "/runs/tiny"},
            "model": {"path": "/models/tiny/model"},
            "data": {"train": [inside], "cache_dir": "/runs/cache"},
            "comms": {"timeout_seconds": 10},
        }
        run = Run(directory / "config", tiny.settings(**changes | settings))
        run.output = self.claim / "runs/tiny"
        return run

    def begin(self, changes):
        config = self.run.config.read_text()
        self.job = self.start_mpijob(FEW_SLOTS | changes, "mpijob", config=config, volume=self.claim)

    def launcher(self):
        return self.job.running(1, self.job.launchers)[0]

    def workers(self):
        return sorted(self.job.running_workers(), key=lambda pod: pod["metadata"]["name"])

    def said(self):
        """All that the launcher that runs now has said."""
        return self.pods.output(self.launcher())

    def reaches_step(self, step):
        eventually(lambda: self.run.last_step() >= step, lambda: f"step {step}\n{self.pods.outputs()}", 120)

    def saved(self):
        """The last step, of a run whose ranks have left; it has to be in a checkpoint."""
        step = self.run.last_step()
        assert self.run.checkpoints()[-1] == step
        return step

    def goes_on(self):
        """Waits until another start has continued from the newest checkpoint, and has trained; returns that step."""
        step = int(eventually(lambda: re.findall(RESUMED, self.said()), self.pods.outputs, 120)[-1])
        self.reaches_step(step + 3)
        return step


@pytest.fixture
def train(tmp_path, tiny, pods, start_mpijob):
    return lambda **settings: Training(tmp_path / "job", tiny, pods, start_mpijob, **settings)


def is_ready(pod):
    return any(one["type"] == "Ready" and one["status"] == "True" for one in pod["status"]["conditions"])


def delete(cluster, pod):
    name, namespace = pod["metadata"]["name"], pod["metadata"]["namespace"]
    cluster.kubectl("delete", "pod", name, f"--namespace={namespace}", "--wait=false")


def test_two_workers_train_and_peft_loads_the_adapter(train, tiny):
    training = train()
    training.job.reaches("Succeeded", seconds=180)
    assert training.run.last_step() == 12
    eventually(lambda: not training.job.workers(), "the workers are gone")
    loaded = subprocess.run(
        [sys.executable, ROOT / "tools/check_peft.py", tiny.model, training.run.output / "final"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert loaded.returncode == 0, loaded.stderr


def test_a_deleted_worker_saves_and_its_successor_joins(train, cluster):
    training = train(**LONG)
    training.reaches_step(5)
    launcher, worker = training.launcher(), training.workers()[1]
    delete(cluster, worker)
    training.job.loses(worker, training.pods.outputs)
    saved = training.saved()
    assert training.goes_on() == saved
    assert uid(training.launcher()) == uid(launcher), "the launcher starts the ranks anew by itself"


def test_a_deleted_launcher_saves_and_another_goes_on(train, cluster):
    training = train(**LONG)
    training.reaches_step(5)
    launcher = training.launcher()
    delete(cluster, launcher)
    training.job.loses(launcher, training.pods.outputs)
    saved = training.saved()
    assert training.goes_on() == saved


def test_suspended_it_saves_and_resumed_it_goes_on(train, cluster):
    training = train(**LONG)
    training.reaches_step(5)
    cluster.api.patch(training.job.path, {"spec": {"runPolicy": {"suspend": True}}})
    training.job.reaches("Suspended")
    eventually(lambda: not training.job.pods(), training.pods.outputs)
    saved = training.saved()
    cluster.api.patch(training.job.path, {"spec": {"runPolicy": {"suspend": False}}})
    assert training.goes_on() == saved


def test_it_goes_on_with_fewer_workers(train, cluster, namespace):
    training = train(**LONG)
    training.reaches_step(5)
    cluster.kubectl("delete", "mpijob", training.job.name, f"--namespace={namespace}")
    eventually(lambda: not training.job.pods(), training.pods.outputs)
    saved = training.saved()
    training.begin({"spec.mpiReplicaSpecs.Worker.replicas": 1})
    assert training.goes_on() == saved
    assert "-np 1 " in training.said()


def test_a_node_is_drained_once_the_budget_is_gone(train, cluster, namespace):
    training = train(**LONG)
    training.reaches_step(5)
    worker = training.workers()[0]
    node = worker["spec"]["nodeName"]
    drain = ["drain", node, "--pod-selector=training.kubeflow.org/job-role=worker", "--delete-emptydir-data"]
    refused = cluster.run(*drain, "--timeout=2s")
    assert refused.returncode == 1 and "would violate the pod's disruption budget" in refused.stderr
    cluster.kubectl("delete", "poddisruptionbudget", "rankwise-workers", f"--namespace={namespace}")
    with contextlib.ExitStack() as stack:
        stack.callback(cluster.kubectl, "uncordon", node)
        cluster.kubectl(*drain, "--timeout=60s")
        saved = training.saved()
        eventually(lambda: RESTARTED_IN_PLACE in training.said(), training.pods.outputs)
    assert training.goes_on() == saved


def test_a_worker_that_is_cut_off_is_named_and_joins_when_it_is_back(train):
    training = train(**LONG)
    training.reaches_step(12)  # nobody can save any more; there is the checkpoint of step 10
    lost = training.workers()[1]
    name = lost["metadata"]["name"]
    training.pods.network.cut(training.pods.link(lost))
    # The ranks that are left give up within comms.timeout_seconds; mpirun would wait for the lost host.
    eventually(lambda: f"look at {name} and the network" in training.said(), training.pods.outputs)
    eventually(lambda: RESTARTED_IN_PLACE in training.said().partition("no progress")[2], training.pods.outputs)
    waiting = training.said().rpartition(RESTARTED_IN_PLACE)[2].splitlines()[0]
    assert f"{name}." in waiting and "worker-0." not in waiting
    training.pods.network.mend(training.pods.link(lost))
    training.goes_on()


def test_the_reason_of_a_failure_is_the_launchers_message(train, namespace, cluster):
    """The MPIJob repeats a pod's own message, which a kubelet writes for evictions alone, and not a container's."""
    training = train(changes={"spec.runPolicy.backoffLimit": 0}, model={"path": "/models/none"})
    assert training.job.reaches("Failed", seconds=120) == "BackoffLimitExceeded/"
    (launcher,) = training.job.launchers()
    described = cluster.kubectl("describe", "pod", launcher["metadata"]["name"], f"--namespace={namespace}")
    message = described.partition("Message:")[2].partition("Exit Code:")[0]
    assert "exit code 66: " in message and "/models/none" in message


def test_the_demo_trains_what_its_image_holds(run_pods, demo_image, start_job):
    """Model, data, recipe and command are the demo's; the run is made shorter."""
    pods = run_pods(demo_image)
    ((_, container),) = containers_of("cpu-demo")
    shorter = [f"--set=train.{key}=2" for key in ("max_steps", "eval_steps", "save_steps", "warmup_steps")]
    args = {"spec.template.spec.containers.0.args": container["args"] + shorter}
    job = start_job(args, "cpu-demo")
    (pod,) = job.running(1)
    eventually(lambda: is_ready(job.pods()[0]), pods.outputs, 180)
    job.reaches("Complete", seconds=300)
    assert "step 2/2 " in pods.output(pod)
    run = pods.folder(pod, "runs") / "demo"
    assert "path: models/SmolLM2-135M-Instruct" in (run / "config.yaml").read_text()
    assert (run / "final/adapter_model.safetensors").exists()
