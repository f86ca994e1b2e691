"""Where a benchmark ran, for the head of its table."""

import os
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


def commit():
    """Of the sources; COMMIT says it of a copy without their git."""
    if said := os.environ.get("COMMIT"):
        return said
    found = subprocess.run(["git", "describe", "--always", "--dirty"], cwd=ROOT, capture_output=True, text=True)
    return found.stdout.strip() or "unknown"
