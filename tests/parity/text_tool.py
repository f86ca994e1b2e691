"""Talks to the C++ program tests/support/text_tool.cc: a list of requests in, the list of its answers out."""

import json
import os
import subprocess
from pathlib import Path

REPO = Path(__file__).resolve().parents[2]


def find_tool():
    build = REPO / os.environ.get("RANKWISE_BUILD", "build/release")
    tool = build / "tests/support/text_tool"
    assert tool.is_file(), f"{tool} is not there: build it first (make build), or set RANKWISE_BUILD"
    return tool


def ask(command, directory, requests=()):
    """The answers, or the error that made the program refuse the directory."""
    lines = "".join(json.dumps(request) + "\n" for request in requests)
    run = subprocess.run([find_tool(), command, directory], input=lines.encode(), capture_output=True, timeout=120)
    assert run.returncode == 0, f"exit code {run.returncode}: {run.stderr.decode()}"
    # not splitlines(): that also ends a line at U+0085 and its like
    return [json.loads(line) for line in run.stdout.decode().split("\n") if line]
