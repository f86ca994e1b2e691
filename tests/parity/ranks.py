"""Where the build lies, and how a program is run on several ranks."""

import os
import pathlib
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tests/support"))
from gpus import skip_without_gpus  # noqa: E402

BUILD = pathlib.Path(os.environ.get("RANKWISE_BUILD", ROOT / "build/release"))
ENVIRONMENT = {
    **os.environ,
    "OMP_NUM_THREADS": "1",
    "OMPI_ALLOW_RUN_AS_ROOT": "1",
    "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1",
    "OMPI_MCA_mpi_yield_when_idle": "1",  # a rank that waits lets others run: these tests share their cores
}


def run_ranks(ranks, *command, timeout=120, threads=1):
    """Runs a program under mpirun (or alone) and returns its output; fails with what it printed."""
    skip_without_gpus(ranks)
    launcher = ["mpirun", "--oversubscribe", "-np", str(ranks)] if ranks > 1 else []
    done = subprocess.run(
        [*launcher, *map(str, command)],
        env=ENVIRONMENT | {"OMP_NUM_THREADS": str(threads)},
        capture_output=True,
        text=True,
        timeout=timeout,
    )
    assert done.returncode == 0, f"exit code {done.returncode}\n{done.stdout}\n{done.stderr}"
    return done.stdout
