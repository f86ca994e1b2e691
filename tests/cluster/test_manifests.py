"""What no schema knows of the overlays: that their numbers, labels and arguments belong together."""

import re
import socket
import subprocess

import pytest
import yaml

from jobs import DECIDED_BY_THE_INPUT
from overlays import JOBS, OVERLAYS, containers_of, documents, folder, mappings, of_kind, pod_templates
from program import ENVIRONMENT, RANKWISE, ROOT
from prometheus import promtool

WITH_CONFIG = [overlay for overlay in JOBS if overlay != "cpu-demo"]
WRITABLE = {"/runs", "/tmp", "/dev/shm"}


def configuration(overlay):
    (found,) = of_kind(overlay, "ConfigMap")
    return found["data"]["train.yaml"]


@pytest.mark.parametrize("overlay", JOBS)
def test_a_container_says_what_it_needs(overlay):
    for _, container in containers_of(overlay):
        requests, limits = (container["resources"][kind] for kind in ("requests", "limits"))
        assert requests["cpu"] and requests["memory"] == limits["memory"], container["name"]
        devices = {name for name in requests if "/" in name}
        assert all(requests[name] == limits[name] for name in devices)


@pytest.mark.parametrize("overlay", JOBS)
def test_an_image_has_a_version(overlay):
    for _, container in containers_of(overlay):
        assert re.fullmatch(r"[a-z/-]+:\d+\.\d+\.\d+", container["image"])


@pytest.mark.parametrize("overlay", JOBS)
def test_a_pod_may_do_little(overlay):
    for template, container in containers_of(overlay):
        pod, own = template["spec"], container["securityContext"]
        assert pod["securityContext"]["runAsNonRoot"] and pod["securityContext"]["runAsUser"] == 1000
        assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        assert pod["automountServiceAccountToken"] is False
        assert own["readOnlyRootFilesystem"] and own["allowPrivilegeEscalation"] is False
        assert own["capabilities"]["drop"] == ["ALL"]
        added = set(own["capabilities"].get("add", []))
        assert added == ({"IPC_LOCK"} if overlay == "rdma" and container["name"] == "worker" else set())
        written = {mount["mountPath"] for mount in container["volumeMounts"] if not mount.get("readOnly")}
        assert written <= WRITABLE


@pytest.mark.parametrize("overlay", JOBS)
def test_ranks_have_more_shared_memory_than_a_container_brings(overlay):
    for template, container in containers_of(overlay):
        if not container.get("ports"):  # a launcher, which has no ranks
            continue
        assert any(mount["mountPath"] == "/dev/shm" for mount in container["volumeMounts"])
        (volume,) = (one for one in template["spec"]["volumes"] if one["name"] == "shm")
        assert volume["emptyDir"]["medium"] == "Memory" and volume["emptyDir"]["sizeLimit"]


@pytest.mark.parametrize("overlay", JOBS)
def test_the_launcher_knows_the_grace_of_its_pod(overlay):
    for template, container in containers_of(overlay):
        words = re.split(r"[ =]", " ".join(container.get("args", [])))
        environment = {one["name"]: one["value"] for one in container.get("env", [])}
        grace = words[words.index("--grace") + 1] if "--grace" in words else environment["RANKWISE_GRACE"]
        assert int(grace) == template["spec"]["terminationGracePeriodSeconds"]


@pytest.mark.parametrize("overlay", JOBS)
def test_network_policy_and_pod_monitor_mean_these_pods(overlay):
    (policy,) = of_kind(overlay, "NetworkPolicy")
    (monitor,) = of_kind("monitoring", "PodMonitor")
    (endpoint,) = monitor["spec"]["podMetricsEndpoints"]
    for template in pod_templates(documents(overlay)):
        labels = template["metadata"]["labels"]
        assert policy["spec"]["podSelector"]["matchLabels"].items() <= labels.items()
        assert monitor["spec"]["selector"]["matchLabels"].items() <= labels.items()
        assert labels[monitor["spec"]["jobLabel"]] == "rankwise"
    names = [port["name"] for _, container in containers_of(overlay) for port in container.get("ports", [])]
    assert names.count(endpoint["port"]) == 1
    assert policy["spec"]["ingress"][1]["ports"] == [{"protocol": "TCP", "port": endpoint["port"]}]


@pytest.mark.parametrize("overlay", WITH_CONFIG)
def test_the_metrics_port_is_the_configurations(overlay):
    config = yaml.safe_load(configuration(overlay))
    (port,) = (
        port["containerPort"]
        for _, container in containers_of(overlay)
        for port in container.get("ports", [])
        if port["name"] == "metrics"
    )
    assert config["monitoring"]["listen"] == f"0.0.0.0:{port}"


def test_the_disruption_budget_counts_the_workers():
    (job,) = of_kind("mpijob", "MPIJob")
    (budget,) = of_kind("mpijob", "PodDisruptionBudget")
    assert budget["spec"]["minAvailable"] == job["spec"]["mpiReplicaSpecs"]["Worker"]["replicas"]
    assert budget["spec"]["selector"]["matchLabels"] == {
        "training.kubeflow.org/job-name": job["metadata"]["name"],
        "training.kubeflow.org/job-role": "worker",
    }


def test_slots_are_gpus():
    (job,) = of_kind("mpijob", "MPIJob")
    (runtime,) = of_kind("trainjob", "ClusterTrainingRuntime")
    (train,) = of_kind("trainjob", "TrainJob")
    for overlay, slots in [
        ("mpijob", job["spec"]["slotsPerWorker"]),
        ("trainjob", runtime["spec"]["mlPolicy"]["mpi"]["numProcPerNode"]),
        ("trainjob", train["spec"]["trainer"]["numProcPerNode"]),
    ]:
        gpus = [one["resources"]["limits"].get("nvidia.com/gpu") for _, one in containers_of(overlay)]
        assert [count for count in gpus if count] == [slots]


def test_workers_are_started_again_and_end_with_their_job():
    (job,) = of_kind("mpijob", "MPIJob")
    assert job["spec"]["mpiReplicaSpecs"]["Worker"]["restartPolicy"] == "OnFailure"  # the operator makes none anew
    assert job["spec"]["runPolicy"]["cleanPodPolicy"] == "Running"


@pytest.mark.parametrize("overlay", ["single-node", "cpu-demo", "trainjob"])
def test_what_the_input_decides_is_not_tried_again(overlay):
    policies = [node["podFailurePolicy"] for node in mappings(documents(overlay)) if "podFailurePolicy" in node]
    assert policies
    for policy in policies:
        rule = policy["rules"][0]
        assert rule["action"] == "FailJob" and rule["onExitCodes"]["values"] == DECIDED_BY_THE_INPUT


@pytest.mark.parametrize("overlay", WITH_CONFIG)
def test_the_program_takes_the_configuration(overlay, tmp_path):
    """All of it: what is missing is the model, which is not here."""
    (tmp_path / "train.yaml").write_text(configuration(overlay))
    checked = rankwise("check", tmp_path / "train.yaml")
    assert checked.returncode == 66, checked.stderr
    assert "/models/" in checked.stderr


@pytest.mark.parametrize("overlay", JOBS)
def test_the_program_takes_the_arguments(overlay, tmp_path):
    """They lead to a training without its model (66), or to a host that does not answer (69)."""
    with socket.create_server(("127.0.0.1", 0)) as taken:  # bound, and closed before it is asked
        port = taken.getsockname()[1]
    (tmp_path / "hostfile").write_text("127.0.0.1 slots=1\n")
    if overlay in WITH_CONFIG:
        (tmp_path / "train.yaml").write_text(configuration(overlay))
    here = {
        "/etc/mpi/hostfile": str(tmp_path / "hostfile"),
        "2222": str(port),
        "/config/train.yaml": str(tmp_path / "train.yaml"),
        "configs/recipes/smollm2_devil.yaml": str(ROOT / "configs/recipes/smollm2_devil.yaml"),
    }
    for _, container in containers_of(overlay):
        if container["command"] != ["rankwise", "launch"]:
            continue
        words = [here.get(word, word) for word in container["args"]]
        alone = [] if "--hostfile" in words or "--np=2" in words else ["--np=1"]
        done = rankwise("launch", *alone, "--start-timeout=0", "--restarts=0", *words, cwd=tmp_path)
        expected = 69 if "--hostfile" in words else 66
        assert done.returncode == expected, done.stdout + done.stderr


def rankwise(*words, **options):
    return subprocess.run(
        [RANKWISE, *words], env=ENVIRONMENT, capture_output=True, text=True, timeout=60, check=False, **options
    )


def test_the_rules_are_those_of_prometheus():
    of_operator = yaml.safe_load((folder("monitoring") / "prometheus_rule.yaml").read_text())["spec"]["groups"]
    assert of_operator == yaml.safe_load((ROOT / "monitoring/prometheus/rules.yml").read_text())["groups"], (
        "k8s/overlays/monitoring/prometheus_rule.yaml says how to make it anew"
    )


def test_an_evicted_worker_is_alerted_on(tmp_path):
    rule = yaml.safe_load((folder("monitoring") / "eviction_rule.yaml").read_text())["spec"]
    (tmp_path / "rules.yml").write_text(yaml.safe_dump(rule))
    (tmp_path / "test.yml").write_text((ROOT / "tests/cluster/eviction_rule_test.yml").read_text())
    tested = promtool("test", "rules", "test.yml", cwd=tmp_path)
    assert tested.returncode == 0, tested.stdout + tested.stderr
    (alert,) = rule["groups"][0]["rules"]
    file, _, anchor = alert["annotations"]["runbook_url"].partition("#")
    assert f"### {alert['alert']}\n" in (ROOT / file).read_text() and anchor == alert["alert"].lower()


def test_every_overlay_is_described():
    described = re.findall(r"^\| `([a-z-]+)` \|", (ROOT / "docs/kubernetes.md").read_text(), re.MULTILINE)
    assert sorted(described) == OVERLAYS
