"""What whole runs share: the tiny model, made once a session, a directory for each run, and the demo's model and data."""

import subprocess
import sys

import pytest

from program import ROOT
from runs import Run, Tiny


@pytest.fixture(scope="session")
def tiny(tmp_path_factory):
    return Tiny.make(tmp_path_factory.mktemp("tiny"))


@pytest.fixture
def new_run(tiny, tmp_path):
    """new_run(name, train=dict(...)): a run of the tiny model with changed settings."""
    return lambda name="a", **changes: Run(tmp_path / name, tiny.settings(**changes))


@pytest.fixture(scope="session")
def demo_inputs():
    """The repository, with the demo's model and data in place."""
    subprocess.run(
        [sys.executable, "-c", "import demo; demo.make_model(); demo.make_data()"],
        cwd=ROOT,
        env={"PATH": "/usr/bin:/bin", "PYTHONPATH": "tools"},
        check=True,
        timeout=600,
    )
    return ROOT
