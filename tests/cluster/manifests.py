"""The overlays of k8s/ as Kustomize renders them."""

import functools
import subprocess
from pathlib import Path

import yaml

from api_server import programs

ROOT = Path(__file__).resolve().parents[2]
OVERLAYS = sorted(path.parent.name for path in (ROOT / "k8s/overlays").glob("*/kustomization.yaml"))


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


def pod_templates(node):
    """Whatever holds a list of containers, wherever a resource keeps it, with its metadata."""
    if isinstance(node, dict):
        if "containers" in node.get("spec", {}):
            yield node
        for value in node.values():
            yield from pod_templates(value)
    if isinstance(node, list):
        for value in node:
            yield from pod_templates(value)


def containers_of(overlay):
    return [(template, one) for template in pod_templates(render(overlay)) for one in template["spec"]["containers"]]
