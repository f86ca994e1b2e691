"""What a real API server says of every overlay: strict schemas, Pod Security, and whether what it stores is what we wrote.

Each case has a namespace of its own, and what it applies outside of it is deleted at its end.
"""

import pytest
import yaml

from cluster import PRIVILEGED
from overlays import EXAMPLE, OVERLAYS, changed, of_example, pod_templates, served
from test_types import REFUSED_BY_BOTH, REFUSED_HERE_ALONE

NEEDS_PRIVILEGES = {"rdma": "IPC_LOCK"}  # overlay: what the standard forbids of it
ALL = [EXAMPLE, *OVERLAYS]
WITH_PODS = [overlay for overlay in ALL if pod_templates(served(overlay))]


def apply(cluster, namespace, documents, *options):
    """kubectl's result for documents that come on its standard input."""
    text = yaml.safe_dump_all(documents)
    return cluster.run("apply", "--validate=strict", f"--namespace={namespace}", "-f", "-", *options, input=text)


@pytest.fixture
def applied(cluster, namespace):
    """Applies documents for the time of the test."""
    texts = []

    def apply_for_now(documents):
        done = apply(cluster, namespace, documents)
        assert (done.returncode, done.stderr) == (0, "")
        texts.append(yaml.safe_dump_all(documents))

    yield apply_for_now
    for text in texts:
        cluster.kubectl("delete", "--wait=false", f"--namespace={namespace}", "-f", "-", input=text)


def pods_of(documents):
    """A Pod of each template: the server looks closer at pods than at the templates in an MPIJob or a TrainingRuntime."""
    for number, template in enumerate(pod_templates(documents)):
        yield {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": f"pod-{number}"}, "spec": template["spec"]}


def dry_run_of_pods(cluster, namespace, overlay):
    """What the server says against them. Their service accounts have to be there."""
    accounts = [one for one in served(overlay) if one["kind"] == "ServiceAccount"]
    if accounts:
        assert apply(cluster, namespace, accounts).returncode == 0
    runs = [apply(cluster, namespace, [pod], "--dry-run=server") for pod in pods_of(served(overlay))]
    return "".join(done.stderr for done in runs)


@pytest.mark.parametrize("overlay", ALL)
def test_overlay_is_accepted(cluster, namespace, overlay):
    if not (documents := served(overlay)):
        pytest.skip("every type of it is unknown to the API server; test_types reads them")
    done = apply(cluster, namespace, documents, "--dry-run=server")
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("overlay", ALL)
def test_stored_overlay_does_not_differ(cluster, namespace, applied, overlay):
    documents = served(overlay)
    applied(documents)
    diff = ["diff", f"--namespace={namespace}", "-f", "-"]
    same = cluster.run(*diff, input=yaml.safe_dump_all(documents))
    assert (same.returncode, same.stdout) == (0, "")
    other = cluster.run(*diff, input=yaml.safe_dump_all([changed(documents[0], "metadata.annotations", {"a": "b"})]))
    assert other.returncode == 1 and "+    a: b" in other.stdout


@pytest.mark.parametrize("overlay", WITH_PODS)
def test_pods_are_as_restricted_as_they_can_be(cluster, namespace, overlay):
    said = dry_run_of_pods(cluster, namespace, overlay)
    if overlay in NEEDS_PRIVILEGES:
        assert NEEDS_PRIVILEGES[overlay] in said
        cluster.api.patch(f"/api/v1/namespaces/{namespace}", {"metadata": {"labels": PRIVILEGED}})
        said = dry_run_of_pods(cluster, namespace, overlay)
    assert said == ""


@pytest.mark.parametrize(
    "path, value, said",
    [
        ("containers.0.securityContext", {}, "allowPrivilegeEscalation != false"),
        ("securityContext", {"runAsUser": 0}, "runAsUser=0"),
        ("containers.0.ports", [{"containerPort": 99999}], "must be between 1 and 65535"),
    ],
)
def test_pod_of_mpijob_is_refused(cluster, namespace, path, value, said):
    """The same in an MPIJob is accepted, and then the operator fails to make the pod again and again."""
    job = changed(of_example("MPIJob"), f"spec.mpiReplicaSpecs.Worker.template.spec.{path}", value)
    assert apply(cluster, namespace, [job], "--dry-run=server").returncode == 0
    runs = [apply(cluster, namespace, [pod], "--dry-run=server") for pod in pods_of(job)]
    assert [done.returncode for done in runs] == [0, 1]
    assert said in runs[1].stderr


@pytest.mark.parametrize("path, value", [case[:2] for case in REFUSED_BY_BOTH])
def test_mpijob_is_refused_with_its_path(cluster, namespace, path, value):
    done = apply(cluster, namespace, [changed(of_example("MPIJob"), path, value)], "--dry-run=server")
    assert done.returncode == 1
    assert path.replace(".0.", "[0].") in done.stderr


@pytest.mark.parametrize("path, value", [case[:2] for case in REFUSED_HERE_ALONE])
def test_mpijob_is_accepted_though_wrong(cluster, namespace, path, value):
    """Why test_types is needed. Should the server refuse one of these some day, its case moves to the others."""
    done = apply(cluster, namespace, [changed(of_example("MPIJob"), path, value)], "--dry-run=server")
    assert done.returncode == 0


def test_typo_in_a_job_is_refused_with_its_path(cluster, namespace):
    typo = changed(of_example("Job"), "spec.template.spec.terminationGracePeriod", 180)
    done = apply(cluster, namespace, [typo], "--dry-run=server")
    assert done.returncode == 1 and 'unknown field "spec.template.spec.terminationGracePeriod"' in done.stderr
