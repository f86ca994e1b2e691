"""What whole runs share: the tiny model, made once a session, and a directory for each run."""

import pytest

from runs import Run, Tiny


@pytest.fixture(scope="session")
def tiny(tmp_path_factory):
    return Tiny.make(tmp_path_factory.mktemp("tiny"))


@pytest.fixture
def new_run(tiny, tmp_path):
    """new_run(name, train=dict(...)): a run of the tiny model with changed settings."""
    return lambda name="a", **changes: Run(tmp_path / name, tiny.settings(**changes))
