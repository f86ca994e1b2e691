"""What only a CUDA device can show. Everything here is skipped where there are too few of them."""

import glob
import re
import sys
from pathlib import Path

import pytest

TESTS = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(TESTS / "e2e"), str(TESTS / "parity")]

from runs import Run, Tiny  # noqa: E402

DEVICES = sum(bool(re.fullmatch(r"/dev/nvidia\d+", path)) for path in glob.glob("/dev/nvidia*"))


def pytest_collection_modifyitems(items):
    """A test whose `ranks` are more than the devices there are cannot run: a rank has a device of its own."""
    for item in items:
        if Path(item.fspath).parent != Path(__file__).parent:
            continue
        needed = max(1, getattr(item, "callspec", None) and item.callspec.params.get("ranks", 1) or 1)
        if needed > DEVICES:
            item.add_marker(pytest.mark.skip(reason=f"{needed} CUDA device(s) needed, {DEVICES} here"))


@pytest.fixture(scope="session")
def tiny(tmp_path_factory):
    return Tiny.make(tmp_path_factory.mktemp("tiny"))


@pytest.fixture
def new_run(tiny, tmp_path):
    """new_run(name, train=dict(...)): a run of the tiny model on the devices, with changed settings."""

    def make(name="a", **changes):
        parallel = {"device": "cuda"} | changes.pop("parallel", {})
        return Run(tmp_path / name, tiny.settings(parallel=parallel, **changes))

    return make
