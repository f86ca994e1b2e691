"""Under `make test-gpu` a test on a host without a GPU skips before it prepares anything."""

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent / "support"))
from gpus import skip_without_gpus  # noqa: E402


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup():
    skip_without_gpus(1)
