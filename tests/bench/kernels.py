"""What the CUDA kernels move beside a copy, on this machine's GPU, into tests/bench/results/gpu_kernels.md.

Runs kernel_bench of the build, or of the folder that RANKWISE_BUILD names.
"""

import datetime
import os
import subprocess
import sys
from pathlib import Path

from machine import ROOT, commit, gpus

PROGRAM = Path(os.environ.get("RANKWISE_BUILD", ROOT / "build/release")) / "gpu_tests/bench/kernel_bench"
RESULTS = ROOT / "tests/bench/results/gpu_kernels.md"


def main():
    output = Path(sys.argv[1]) if len(sys.argv) > 1 else RESULTS
    table = subprocess.run([PROGRAM], stdout=subprocess.PIPE, text=True, check=True).stdout
    hardware = "; ".join(gpus()) or "no GPU"
    output.write_text(
        f"# CUDA kernels beside a copy\n\n`tests/bench/kernels.py` on {datetime.date.today()}, commit {commit()}: "
        f"{hardware}. Sizes of an 8B model, 8,192 tokens, bfloat16; bytes that have to be read and written, over the "
        f"median of 30 runs with cold caches, launches of all kernels of a call included.\n\n{table}"
    )
    print(table, end="")


if __name__ == "__main__":
    main()
