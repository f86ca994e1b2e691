"""The manifests that are tested, by name and as Kustomize renders them: the overlays of k8s/, and these tests' example."""

import copy
import functools
import subprocess

import yaml

import cluster_build
from program import ROOT

EXAMPLE = "example"
OVERLAYS = sorted(path.parent.name for path in (ROOT / "k8s/overlays").glob("*/kustomization.yaml"))
JOBS = [overlay for overlay in OVERLAYS if overlay != "monitoring"]
# No module holds the definitions of these types, so the API server does not know them.
UNKNOWN_GROUPS = {"kueue.x-k8s.io", "monitoring.coreos.com"}


@functools.cache
def programs():
    """The folder of kubectl and the others. Asked for late: not every test here needs them, nor Go."""
    return cluster_build.folder()


def folder(overlay):
    return ROOT / "tests/cluster" / EXAMPLE if overlay == EXAMPLE else ROOT / "k8s/overlays" / overlay


@functools.cache
def text(overlay):
    rendered = subprocess.run(
        [programs() / "kubectl", "kustomize", folder(overlay)], capture_output=True, text=True, check=False
    )
    assert rendered.returncode == 0, rendered.stderr
    return rendered.stdout


def documents(overlay):
    return list(yaml.safe_load_all(text(overlay)))


def served(overlay):
    """Those documents that the API server knows the type of."""
    return [one for one in documents(overlay) if one["apiVersion"].split("/")[0] not in UNKNOWN_GROUPS]


def of_kind(overlay, kind):
    return [one for one in documents(overlay) if one["kind"] == kind]


def of_example(kind):
    (found,) = of_kind(EXAMPLE, kind)
    return found


def changed(document, path, value):
    """A copy with `value` at `path`, such as "spec.template.spec.containers.0.image"."""
    made = place = copy.deepcopy(document)
    *parents, last = (int(key) if key.isdigit() else key for key in path.split("."))
    for key in parents:
        place = place[key]
    place[last] = value
    return made


def mappings(node):
    """Every mapping below, wherever a resource keeps it."""
    if isinstance(node, dict):
        yield node
    if isinstance(node, (dict, list)):
        for value in node.values() if isinstance(node, dict) else node:
            yield from mappings(value)


def pod_templates(node):
    """Whatever holds a list of containers, with its metadata."""
    return [one for one in mappings(node) if "containers" in (one.get("spec") or {})]


def containers_of(overlay):
    return [(template, one) for template in pod_templates(documents(overlay)) for one in template["spec"]["containers"]]
