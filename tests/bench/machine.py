"""Where and of which sources something was measured, for the head of its table."""

import os
import re
import subprocess
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def gpus():
    """Name, memory and driver of each; none where there is no driver."""
    query = ["nvidia-smi", "--query-gpu=name,memory.total,driver_version", "--format=csv,noheader"]
    try:
        return subprocess.run(query, capture_output=True, text=True, check=True).stdout.splitlines()
    except (OSError, subprocess.CalledProcessError):
        return []


def cpu():
    """Its name and cores."""
    name = re.search(r"model name\s*:\s*(.*)", Path("/proc/cpuinfo").read_text())[1]
    return f"{name}, {os.cpu_count()} cores"


def commit(root=ROOT):
    """Of the sources, with -dirty where they differ from it; a result that was just written does not count. COMMIT says
    it of a copy without their git."""
    if said := os.environ.get("COMMIT"):
        return said
    name = answer_of_git(root, "describe", "--always")
    changed = answer_of_git(root, "diff", "HEAD", "--name-only", "--", ".", ":(exclude,glob)**/results/**")
    return (name or "unknown") + ("-dirty" if changed else "")


def answer_of_git(root, *arguments):
    try:
        return subprocess.run(["git", *arguments], cwd=root, capture_output=True, text=True).stdout.strip()
    except OSError:  # not installed
        return ""
