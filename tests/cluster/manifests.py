"""The overlays of k8s/ as Kustomize renders them."""

import functools
import subprocess

import yaml

from api_server import programs
from program import ROOT

OVERLAYS = sorted(path.parent.name for path in (ROOT / "k8s/overlays").glob("*/kustomization.yaml"))
JOBS = [overlay for overlay in OVERLAYS if overlay != "monitoring"]


def folder(overlay):
    return ROOT / "k8s/overlays" / overlay


@functools.cache
def render(overlay):
    done = subprocess.run(
        [programs() / "kubectl", "kustomize", folder(overlay)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return list(yaml.safe_load_all(done.stdout))


def of_kind(overlay, kind):
    return [one for one in render(overlay) if one["kind"] == kind]


def mappings(node):
    """Every mapping below, wherever a resource keeps it."""
    if isinstance(node, dict):
        yield node
    if isinstance(node, (dict, list)):
        for value in node.values() if isinstance(node, dict) else node:
            yield from mappings(value)


def pod_templates(overlay):
    """Whatever holds a list of containers, with its metadata."""
    return [node for node in mappings(render(overlay)) if "containers" in node.get("spec", {})]


def containers_of(overlay):
    return [(template, one) for template in pod_templates(overlay) for one in template["spec"]["containers"]]
