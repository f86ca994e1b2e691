"""The Dockerfile's images as folders, by the same steps and without a container engine.

FROM is a debootstrap of the same Debian, RUN a chroot, COPY a copy. What the stage `build` does is what `make` has done
here already. The Debian below is made once for each content of its steps, and kept.
"""

import hashlib
import os
import re
import shutil
import subprocess
import sys

from cluster_build import CACHE
from program import ROOT

DOCKERFILE = ROOT / "k8s/Dockerfile"
SUITES = {"debian:12-slim": "bookworm"}


def stages():
    """{name: (base, [(instruction, arguments), ...])}"""
    found = {}
    for line in DOCKERFILE.read_text().splitlines():
        if not line or line.startswith("#"):
            continue
        instruction, arguments = line.split(maxsplit=1)
        if instruction == "FROM":
            base, name = re.fullmatch(r"(\S+) AS (\S+)", arguments).groups()
            found[name] = (base, [])
        else:
            found[name][1].append((instruction, arguments))
    return found


def run(*command):
    done = subprocess.run([*map(str, command)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{' '.join(map(str, command))}\n{done.stdout[-2000:]}{done.stderr[-2000:]}"


def copy(root, arguments):
    if arguments.startswith("--from="):
        return  # the files of the stage before, which files() lays out
    source, target = arguments.split()
    shutil.copy(ROOT / source, root / target.lstrip("/"))


def take_step(root, instruction, arguments):
    if instruction == "COPY":
        copy(root, arguments)
    elif instruction == "RUN":
        run("chroot", root, "/usr/bin/env", "-i", "PATH=/usr/sbin:/usr/bin:/sbin:/bin", "sh", "-euc", arguments)
    else:
        assert instruction in ("USER", "ENTRYPOINT"), instruction


def system():
    """Debian with what the steps add to it."""
    base, steps = stages()["rankwise"]
    inputs = [DOCKERFILE, ROOT / "k8s/image/install.sh"]
    key = hashlib.sha256(b"".join(path.read_bytes() for path in inputs)).hexdigest()[:16]
    made = CACHE / f"image-{key}"
    if not made.exists():
        partial = CACHE / f"image-{key}.partial"
        shutil.rmtree(partial, ignore_errors=True)
        partial.parent.mkdir(parents=True, exist_ok=True)
        run("debootstrap", "--variant=minbase", "--include=ca-certificates", SUITES[base], partial)
        for step in steps:
            take_step(partial, *step)
        partial.rename(made)
    return made


def files(directory):
    """What the stage `build` hands over: its last step, into a folder."""
    instruction, arguments = stages()["build"][1][-1]
    assert (instruction, arguments) == ("RUN", "k8s/image/assemble.sh /image")
    run("make", "--directory", ROOT, "bundle")
    run(ROOT / "k8s/image/assemble.sh", directory)
    return directory


def inputs(directory):
    """What the stage `inputs` hands over: the demo's model and data, which `make demo` puts in place here as well."""
    make, lay_out = (arguments for _, arguments in stages()["inputs"][1])
    assert make == ".venv/bin/python tools/demo.py --inputs", make
    assert lay_out == "mkdir -p /inputs/opt/rankwise && cp -a models data /inputs/opt/rankwise/", lay_out
    run(sys.executable, ROOT / "tools/demo.py", "--inputs")
    laid_out = directory / "opt/rankwise"
    laid_out.mkdir(parents=True)
    run("cp", "-a", *(ROOT / name for name in ("models", "data")), laid_out)
    return directory


def demo_layers(directory, below):
    """The image `demo`, on the layers of the image `rankwise`."""
    assert stages()["demo"] == ("rankwise", [("COPY", "--from=inputs /inputs/ /")])
    return f"{inputs(directory / 'inputs')}:{below}"


def layers(directory):
    """The image `rankwise` as overlayfs wants it: its folders, the uppermost first. RANKWISE_IMAGE names one that is there."""
    if given := os.environ.get("RANKWISE_IMAGE"):
        return given
    return f"{files(directory / 'image')}:{system()}"
