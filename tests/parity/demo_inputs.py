"""The demo's model and data, for tests of the real thing."""

import subprocess
import sys

import pytest

from ranks import ENVIRONMENT, ROOT


def demo_inputs():
    """Puts the demo's model and data in place if they are not; returns their folders. Skips in a bundle."""
    if not (ROOT / "tools/demo.py").exists():
        pytest.skip("the demo's model is made in a clone: make demo")
    make = "import demo; demo.make_inputs(); print(demo.MODEL, demo.DATA)"
    made = subprocess.run(
        [sys.executable, "-c", make],
        cwd=ROOT,
        env=ENVIRONMENT | {"PYTHONPATH": "tools"},
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert made.returncode == 0, made.stdout + made.stderr
    return tuple(ROOT / path for path in made.stdout.splitlines()[-1].split())
