"""Starting the programs of a demo so that none outlives it, and reading a run's metrics from outside."""

import contextlib
import os
import socket
import subprocess
import urllib.request

from support import ToolFailure

PATIENCE_SECONDS = 5  # from SIGTERM to SIGKILL


def environment():
    """One thread a rank; what mpirun asks of root."""
    made = {**os.environ, "OMP_NUM_THREADS": "1"}
    if os.geteuid() == 0:
        made |= {"OMPI_ALLOW_RUN_AS_ROOT": "1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1"}
    return made


@contextlib.contextmanager
def started(command, **options):
    """Yields the running process, which ends with the block at the latest.

    It gets a process group of its own: Ctrl-C reaches it once, from here, as mpirun takes a second signal as the order
    to abandon its ranks.
    """
    process = subprocess.Popen(
        list(map(str, command)), env=environment(), stdin=subprocess.DEVNULL, process_group=0, **options
    )
    try:
        yield process
    finally:
        if process.poll() is None:
            process.terminate()
            try:
                process.wait(PATIENCE_SECONDS)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def run_tool(command):
    """Runs to the end, its output on the terminal. Throws ToolFailure if it failed."""
    with started(command) as process:
        process.wait()
    if process.returncode != 0:
        raise ToolFailure(f"{' '.join(map(str, command))} ended with exit code {process.returncode}")


def free_address(wanted):
    """`wanted` ("127.0.0.1:9464"), or where that port is taken the same host with a free one."""
    host, port = wanted.split(":")
    for candidate in (int(port), 0):
        with contextlib.suppress(OSError), socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind((host, candidate))
            return f"{host}:{probe.getsockname()[1]}"
    raise ToolFailure(f"no free port on {host}")


class Metrics:
    """The page of a run in Prometheus' text format, as it was when it was last fetched."""

    def __init__(self, url):
        self.url = url
        self.values = {}

    def refresh(self):
        """Fetches the page; keeps the last one while the run does not serve it."""
        with contextlib.suppress(OSError), urllib.request.urlopen(self.url, timeout=2) as page:
            lines = page.read().decode().splitlines()
            self.values = dict(line.rsplit(" ", 1) for line in lines if line and not line.startswith("#"))

    def value(self, name):
        """Of one series, such as 'rankwise_train_tokens_total{kind="input"}'; 0 where the page has none."""
        return float(self.values.get(name, 0))
