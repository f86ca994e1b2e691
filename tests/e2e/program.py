"""The program as a user starts it: alone or under mpirun, with signals, a metrics page and files.

Processes are held by pidfd, so that a signal never reaches a stranger who got the same id, and only those that a test
started are ever ended. Nothing sleeps for a fixed time: everything waits for a condition, with a limit.
"""

import json
import os
import re
import select
import signal
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tests/support"))
from gpus import DEVICE, ON_GPUS, missing_gpus, skip_without_gpus  # noqa: E402, F401

BUILD = Path(os.environ.get("RANKWISE_BUILD", ROOT / "build/release")).resolve()
RANKWISE = BUILD / "rankwise"
# One thread a rank: on a busy machine the barriers of more threads than cores spin for seconds.
ENVIRONMENT = {
    **os.environ,
    "OMP_NUM_THREADS": "1",
    "OMPI_ALLOW_RUN_AS_ROOT": "1",
    "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1",
    "OMPI_MCA_mpi_yield_when_idle": "1",  # a rank that waits lets others run: these tests share their cores
}
PATIENCE = 300.0  # seconds; far above what anything here takes, so that only a hang reaches it


def wait_until(condition, what, timeout=PATIENCE, interval=0.005):
    """Returns the first true value of condition(); fails, saying what was waited for, after `timeout` seconds."""
    deadline = time.monotonic() + timeout
    while not (value := condition()):
        assert time.monotonic() < deadline, f"{what}: not within {timeout} s"
        time.sleep(interval)
    return value


class Process:
    """Some process, perhaps not our child, by a handle that stays its own after its end."""

    def __init__(self, pid):
        self.pid = pid
        self.handle = os.pidfd_open(pid)

    def __del__(self):
        os.close(self.handle)

    def alive(self):
        return not select.select([self.handle], [], [], 0)[0]

    def send(self, number):
        signal.pidfd_send_signal(self.handle, number)

    def kill(self):
        """SIGKILL, and the end of it seen."""
        try:
            self.send(signal.SIGKILL)
        except ProcessLookupError:
            return
        assert select.select([self.handle], [], [], PATIENCE)[0], f"process {self.pid} outlives SIGKILL"


def read_proc(pid, name):
    try:
        return Path(f"/proc/{pid}/{name}").read_bytes()
    except OSError:  # it ended meanwhile
        return b""


def children_of(parent):
    """Handles of the processes whose parent is `parent` now."""
    found = []
    for pid in filter(str.isdigit, os.listdir("/proc")):
        stat = read_proc(pid, "stat")
        if stat and int(stat.rpartition(b")")[2].split()[1]) == parent:
            try:
                found.append(Process(int(pid)))
            except ProcessLookupError:
                continue
    return found


def rank_of(process):
    """The rank that mpirun gave a process, or None while it is not yet our program."""
    if os.path.basename(os.fsdecode(read_proc(process.pid, "cmdline").split(b"\0")[0])) != RANKWISE.name:
        return None
    match = re.search(rb"(?:^|\0)OMPI_COMM_WORLD_RANK=(\d+)", read_proc(process.pid, "environ"))
    return int(match[1]) if match else None


def wait_for_their_end(processes, timeout=5):
    """mpirun itself is gone a moment before those whom it killed."""
    wait_until(lambda: not any(process.alive() for process in processes), "the end of all ranks", timeout=timeout)


def printed_json(output):
    """What a program printed as one line of JSON, among whatever else."""
    return json.loads(next(line for line in output.splitlines() if line.startswith("{")))


class Job:
    """One start of the program; a context manager that leaves no process behind.

    ranks 0 starts it without a launcher, `program` puts something else in its place (a wrapper script).
    """

    def __init__(self, directory, ranks, *arguments, program=RANKWISE, environment=None):
        skip_without_gpus(max(ranks, 1))
        command = ["mpirun", "--oversubscribe", "-np", str(ranks)] if ranks else []
        self.ranks_started = ranks
        self.began = time.monotonic()
        self.output_file = directory / f"output.{time.monotonic_ns()}"
        with self.output_file.open("wb") as output:
            self.popen = subprocess.Popen(
                [*command, str(program), *map(str, arguments)],
                cwd=directory,
                env=ENVIRONMENT | (environment or {}),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
            )
        self.main = Process(self.popen.pid)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.kill_tree()

    def output(self):
        return self.output_file.read_text(errors="replace")

    def running(self):
        return self.popen.poll() is None

    def wait(self, timeout=PATIENCE):
        """The exit code: mpirun's, where there is one."""
        try:
            return self.popen.wait(timeout)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"still running after {timeout} s:\n{self.output()}") from None

    def wait_for(self, condition, what, timeout=PATIENCE):
        """Waits for a condition that only a living job can bring about."""

        def met():
            value = condition()
            assert value or self.running(), f"ended with code {self.popen.returncode} before {what}:\n{self.output()}"
            return value

        return wait_until(met, what, timeout)

    def wait_for_output(self, pattern, timeout=PATIENCE):
        return self.wait_for(lambda: re.search(pattern, self.output()), f"output of {pattern!r}", timeout)

    def ranks(self):
        """The ranks' processes, once all of them run the program."""

        def all_ranks():
            found = {rank_of(p): p for p in children_of(self.popen.pid)}
            found.pop(None, None)
            return len(found) == self.ranks_started and [found[r] for r in sorted(found)]

        if not self.ranks_started:
            return [self.main]
        return self.wait_for(all_ranks, "all ranks run")

    def kill_tree(self):
        """SIGKILL for launcher and ranks. The launcher is stopped first: it can start nobody that is not seen."""
        if self.running():
            self.main.send(signal.SIGSTOP)
            for process in children_of(self.popen.pid):
                process.kill()
            self.main.kill()
        self.popen.wait(PATIENCE)

    def metrics_url(self):
        return self.wait_for_output(r'metrics: (http://[^\s"]+)')[1]

    def metrics(self):
        """The metrics page as {series: value}; {} where nobody answers (any more)."""
        return parse_metrics(fetch(self.metrics_url()))


def parse_metrics(text):
    return {series: float(value) for series, _, value in (s.rpartition(" ") for s in text.splitlines() if s[0] != "#")}


def fetch(url):
    try:
        with urllib.request.urlopen(url, timeout=10) as answer:
            return answer.read().decode()
    except OSError:
        return ""


def run(directory, ranks, *arguments, expect=0, timeout=PATIENCE, **options):
    """Runs to the end and returns the output; fails unless the exit code is the expected one."""
    with Job(directory, ranks, *arguments, **options) as job:
        code = job.wait(timeout)
        assert code == expect, f"exit code {code}, expected {expect}:\n{job.output()}"
        return job.output()
