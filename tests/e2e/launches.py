"""`rankwise launch`: the launcher, mpirun below it, and below that the ranks."""

import functools
import os
import subprocess
from pathlib import Path

import pytest

from program import RANKWISE, Job, children_of, rank_of

# The program itself is process 1: exec keeps the number that unshare's child has.
FIRST_PROCESS = ["--pid", "--fork", "--kill-child", "--mount-proc"]


@functools.cache
def problem_of_namespaces():
    """Why there are none for processes here; empty where there are."""
    tried = subprocess.run(["unshare", *FIRST_PROCESS, "true"], capture_output=True, text=True)
    return tried.stderr.strip() if tried.returncode else ""


class Launch(Job):
    """first_process: as process 1 of a namespace, as in a container; skips where there is none to be had.

    inside: a command that runs the one behind it as its child, elsewhere.
    """

    def __init__(self, run, *options, np=2, first_process=False, inside=(), **more):
        launch = ["launch", *(["--np", np] if np else []), *options, "train", run.config]
        if first_process:
            if problem := problem_of_namespaces():
                pytest.skip(f"no namespace of processes to be had here: {problem}")
            inside = ["unshare", *FIRST_PROCESS]
        self.below = bool(inside)
        if inside:
            more["program"], *words = inside
            launch = [*words, RANKWISE, *launch]
        super().__init__(run.directory, 0, *launch, **more)

    def launcher(self):
        if not self.below:
            return self.main
        return self.wait_for(lambda: children_of(self.popen.pid), "the launcher's process")[0]

    def rank_processes(self, count=2):
        def all_ranks():
            found = {rank_of(rank): rank for mpirun in children_of(self.popen.pid) for rank in children_of(mpirun.pid)}
            found.pop(None, None)
            return len(found) == count and [found[rank] for rank in sorted(found)]

        return self.wait_for(all_ranks, "all ranks run")

    def kill_tree(self):
        ours = children_of(self.popen.pid)
        everybody = [*ours, *(rank for mpirun in ours for rank in children_of(mpirun.pid))]
        if self.running():
            self.main.kill()
        for process in everybody:
            process.kill()
        self.popen.wait()


def finish(run, *options, expect=0, **more):
    with Launch(run, *options, **more) as job:
        code = job.wait()
        assert code == expect, f"exit code {code}, expected {expect}:\n{job.output()}"
        return job.output()


def processes_in(directory):
    """The command lines of those that work in a directory, or below it."""
    found = []
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            works_in = Path(os.readlink(f"/proc/{pid}/cwd"))
            if works_in.is_relative_to(directory):
                found.append(Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace"))
        except OSError:  # it ended meanwhile
            continue
    return found
