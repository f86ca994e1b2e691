"""The stages of .ci/run, with the programs that it calls replaced: nothing is built or installed here."""

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
HAS = {"make": 'echo "make $*"', "dpkg-query": "printf 'installed %s\\n' debootstrap iproute2 openssh-server"}


@pytest.fixture
def run(tmp_path):
    """run(missing, **programs): .ci/run where tools/cluster_build.py --check says that this is missing."""
    (tmp_path / "tools").mkdir()
    (tmp_path / ".ci").mkdir()
    shutil.copy(ROOT / ".ci/run", tmp_path / ".ci")
    shutil.copy(ROOT / "tools/setup.sh", tmp_path / "tools")
    (tmp_path / ".deps").mkdir()

    def finished(missing="", **programs):
        for name, body in (HAS | programs).items():
            write(tmp_path / "fakes" / name, body)
        write(tmp_path / "tools/cluster_build.py", f"echo '{missing}' >&2; [[ $* == --check && -z '{missing}' ]]")
        environment = os.environ | {"PATH": f"{tmp_path}/fakes:{os.environ['PATH']}"}
        return subprocess.run([tmp_path / ".ci/run"], env=environment, capture_output=True, text=True)

    return finished


def write(path, body):
    path.parent.mkdir(exist_ok=True)
    path.write_text(f"#!/bin/bash\n{body}\n")
    path.chmod(0o755)


def summary(done):
    """{stage: how it ended}"""
    text = done.stdout.partition("==== summary\n")[2]
    return dict(re.findall(r"^==== (\w+) +(?:\d+ s|-) +(.*)$", text, re.MULTILINE))


PASSED = dict.fromkeys(["setup", "build", "lint", "test"], "passed")


def test_the_cluster_comes_last(run):
    done = run()
    assert done.returncode == 0
    assert list(summary(done).items()) == [*PASSED.items(), ("cluster", "passed")]
    assert "make test-cluster" in done.stdout.splitlines()


def test_where_it_cannot_be_tried_it_is_left_out_and_says_why(run):
    done = run(missing="cluster: go is not on PATH")
    assert done.returncode == 0
    assert summary(done) == PASSED | {"cluster": "skipped: cluster: go is not on PATH"}
    assert "make test-cluster" not in done.stdout


def test_its_failure_is_one(run):
    done = run(make="[[ $1 != test-cluster ]]")
    assert done.returncode == 1
    assert summary(done) == PASSED | {"cluster": "FAILED (1)"}


@pytest.mark.skipif(os.geteuid() != 0, reason="packages are installed by root alone")
def test_missing_packages_are_installed(run, tmp_path):
    installed = tmp_path / "installed"
    query = "printf 'installed %s\\n' iproute2"
    done = run(**{"dpkg-query": query, "apt-get": f'echo "$@" >>{installed}'})
    assert done.returncode == 0, done.stderr
    assert installed.read_text().splitlines()[-1].endswith("install debootstrap openssh-server")


@pytest.mark.skipif(os.geteuid() != 0, reason="packages are installed by root alone")
def test_packages_that_are_not_to_be_had_leave_the_rest_as_it_is(run):
    query = "printf 'installed %s\\n' iproute2"
    done = run(missing="missing packages: debootstrap", **{"dpkg-query": query, "apt-get": "exit 100"})
    assert done.returncode == 0
    assert summary(done) == PASSED | {"cluster": "skipped: missing packages: debootstrap"}
