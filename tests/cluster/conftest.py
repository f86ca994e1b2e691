"""Tests of Kubernetes' side share what starts the program and Prometheus with the tests of whole runs."""

import sys
from pathlib import Path

TESTS = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(TESTS / "e2e"), str(TESTS / "support"), str(TESTS.parent / "tools")]

from fixtures import tiny  # noqa: E402, F401
