#!/usr/bin/env python3
"""Build the Kubernetes control plane and the MPI operator that tests/cluster runs, from Go modules.

What is built is kept in a folder of the user's cache, named for all that decides it; where that is whole, nothing is
done. The first time it takes 10 to 25 minutes, 2 GB of modules and 5 GB of Go's own build cache, which may be deleted
afterwards.
"""

import argparse
import hashlib
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from support import ToolFailure, run, whole_folder

MODULES = Path(__file__).resolve().parents[1] / "tests/cluster"
CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "rankwise"
GO_MINIMUM = (1, 24)
PATH = os.pathsep.join([os.environ["PATH"], "/usr/local/go/bin", "/usr/sbin", "/sbin"])
PACKAGES = {"debootstrap": "debootstrap", "ip": "iproute2", "sshd": "openssh-server"}  # by a program that they hold
KUBERNETES = "1.34.4"
VERSION = "k8s.io/component-base/version"
FLAGS = ["-p", "2", "-trimpath", "-buildvcs=false"]  # -p 2: the linker of one alone takes nearly 2 GiB
LINK = "-s -w"
# Without these the server takes itself for v0.0.0, and `kubectl version` ends with an error.
LINK_KUBERNETES = (
    f"{LINK} -X {VERSION}.gitVersion=v{KUBERNETES} -X {VERSION}.gitMajor=1 -X {VERSION}.gitMinor=34"
    f" -X {VERSION}.gitTreeState=clean"
)
PROGRAMS = {  # name: (module folder, package, linker flags)
    "etcd": ("controlplane", "go.etcd.io/etcd/server/v3", LINK),
    "kube-apiserver": ("controlplane", "k8s.io/kubernetes/cmd/kube-apiserver", LINK_KUBERNETES),
    "kube-controller-manager": ("controlplane", "k8s.io/kubernetes/cmd/kube-controller-manager", LINK_KUBERNETES),
    "kube-scheduler": ("controlplane", "k8s.io/kubernetes/cmd/kube-scheduler", LINK_KUBERNETES),
    "kubectl": ("controlplane", "k8s.io/kubernetes/cmd/kubectl", LINK_KUBERNETES),
    "mpi-operator": ("operator", "github.com/kubeflow/mpi-operator/cmd/mpi-operator", LINK),
    "manifest-check": ("types", ".", LINK),
}
MANIFESTS = {  # name: (module folder, module, what of it is applied to a new cluster)
    "mpi-operator": ("operator", "github.com/kubeflow/mpi-operator", "manifests"),
    "jobset": ("types", "sigs.k8s.io/jobset", "config/components/crd/bases"),
    "trainer": ("types", "github.com/kubeflow/trainer/v2", "manifests/base/crds"),
}
# The operator is run as a process by the tests, with the roles it ships: all of its manifests but its Deployment.
KUSTOMIZATION = """resources:
- mpi-operator/overlays/standalone
- jobset/jobset.x-k8s.io_jobsets.yaml
- trainer/trainer.kubeflow.org_clustertrainingruntimes.yaml
- trainer/trainer.kubeflow.org_trainingruntimes.yaml
- trainer/trainer.kubeflow.org_trainjobs.yaml
patches:
- target: {kind: Deployment}
  patch: '{"$patch": "delete", "apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "mpi-operator"}}'
"""


def go(folder, *arguments, log=None):
    """The output of a go command in one of the modules; with `log` it goes there."""
    environment = os.environ | {"PATH": PATH, "CGO_ENABLED": "0", "GOFLAGS": "", "GOWORK": "off"}
    return subprocess.run(
        ["go", *arguments],
        cwd=MODULES / folder,
        env=environment,
        stdout=log or subprocess.PIPE,
        stderr=log or subprocess.PIPE,
        text=True,
    )


def go_version():
    remedy = f"install Go {'.'.join(map(str, GO_MINIMUM))} or newer (https://go.dev/dl) and put it on PATH"
    if not shutil.which("go", path=PATH):
        raise ToolFailure(f"go is not on PATH; {remedy}")
    version = go("controlplane", "env", "GOVERSION").stdout.strip()
    found = re.match(r"go(\d+)\.(\d+)", version)
    if not found or tuple(map(int, found.groups())) < GO_MINIMUM:
        raise ToolFailure(f"go is {version or 'of no known version'}; {remedy}")
    return version


def folder():
    """Where the programs are, or will be: its name changes with whatever decides what they are."""
    sources = sorted([*MODULES.glob("*/go.mod"), *MODULES.glob("*/go.sum"), *MODULES.glob("*/*.go")])
    parts = [go_version(), repr((PROGRAMS, MANIFESTS, KUSTOMIZATION, FLAGS)), *map(Path.read_text, sources)]
    digest = hashlib.sha256("\0".join(parts).encode()).hexdigest()[:16]
    return CACHE / f"cluster-{digest}"


def explain(name, log):
    log.seek(0)
    lines = log.read().splitlines()
    no_module = r"reading |dial tcp|lookup|[45]\d\d [A-Z]|proxyconnect|checksum"
    refused = any(re.search(no_module, line) for line in lines)
    remedy = (
        "a module could not be loaded: check the network and `go env GOPROXY`, then run this again"
        if refused
        else "what was compiled so far is kept: running this again goes on from here"
    )
    return ToolFailure("\n".join([f"{name} was not built; the last lines of go build:", *lines[-12:], remedy]))


def build_program(name, out):
    """Compiles one program, with a line that says how long it took."""
    module, package, link = PROGRAMS[name]
    print(f"cluster: {name:<25}", end="", flush=True)
    began = time.monotonic()
    with tempfile.TemporaryFile("w+") as log:
        done = go(module, "build", *FLAGS, "-ldflags", link, "-o", out / name, package, log=log)
        if done.returncode != 0:
            print("failed")
            raise explain(name, log)
    print(f"{time.monotonic() - began:6.1f} s", flush=True)


def module_folder(name):
    module, path, inside = MANIFESTS[name]
    listed = go(module, "list", "-m", "-f", "{{.Dir}}", path)
    if listed.returncode != 0 or not listed.stdout.strip():
        raise ToolFailure(f"the folder of module {path} was not found: {listed.stderr.strip()}")
    return Path(listed.stdout.strip()) / inside


def render_manifests(out):
    """manifests.yaml: what a new cluster is given, so that later runs need neither Go's module cache nor the network."""
    with tempfile.TemporaryDirectory(dir=out) as work:
        for name in MANIFESTS:
            shutil.copytree(module_folder(name), Path(work) / name, copy_function=shutil.copyfile)
            for path in [Path(work) / name, *(Path(work) / name).rglob("*")]:
                path.chmod(0o755 if path.is_dir() else 0o644)  # the module cache is read-only
        (Path(work) / "kustomization.yaml").write_text(KUSTOMIZATION)
        rendered = subprocess.run([out / "kubectl", "kustomize", work], capture_output=True, text=True)
    if rendered.returncode != 0:
        raise ToolFailure(f"the operators' manifests could not be rendered: {rendered.stderr.strip()}")
    (out / "manifests.yaml").write_text(rendered.stdout)


def build(out):
    began = time.monotonic()
    print(f"cluster: {len(PROGRAMS)} programs with {go_version()}, one after another; minutes each the first time")
    with whole_folder(out, replace=False) as work:
        for name in PROGRAMS:
            build_program(name, work)
        render_manifests(work)
    print(f"cluster: complete after {time.monotonic() - began:.0f} s")


def check():
    """Throws what `make test-cluster` wants and is not to be had here."""
    if os.geteuid() != 0:
        raise ToolFailure("namespaces and mounts want root")
    apart = subprocess.run(["unshare", "--mount", "--net", "--pid", "--fork", "true"], capture_output=True, text=True)
    if apart.returncode != 0:
        raise ToolFailure(f"no namespaces to be had here: {apart.stderr.strip()}")
    if lacking := [package for program, package in PACKAGES.items() if not shutil.which(program, path=PATH)]:
        raise ToolFailure(f"missing packages: {' '.join(lacking)}")
    go_version()


def main(argv=None):
    parser = argparse.ArgumentParser(
        description=__doc__, epilog="example: make test-cluster", formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--check", action="store_true", help="say what tests/cluster lacks here, and build nothing")
    options = parser.parse_args(argv)

    def ensure():
        out = folder()
        if not out.exists():
            build(out)
        print(f"cluster: {out}")

    return run("cluster", check if options.check else ensure)


if __name__ == "__main__":
    sys.exit(main())
