"""What only a CUDA device can show: skipped where there are fewer of them than a test's `ranks`."""

import sys
from pathlib import Path

import pytest

TESTS = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(TESTS / "e2e"), str(TESTS / "parity"), str(TESTS / "support")]

from fixtures import new_run, tiny  # noqa: E402, F401
from gpus import too_few_gpus  # noqa: E402


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item):
    parameters = item.callspec.params if hasattr(item, "callspec") else {}
    if reason := too_few_gpus(parameters.get("ranks", 1)):
        pytest.skip(reason)
