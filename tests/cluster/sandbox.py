"""A place where the cluster's processes run: network and process namespaces of their own.

Every port is free there, so ports can be fixed; and when the first process of the place ends, the kernel ends all
others. So one process has to be ended, by its own id, and nothing is left over whatever became of the tests.
"""

import contextlib
import os
import signal
import subprocess
from pathlib import Path

HOLD = "ip link set lo up && echo ready && exec sleep infinity"


class Sandbox:
    """Namespaces that live as long as `pid`, the process that made them."""

    def __init__(self, pid, holder=None):
        self.pid = pid
        self.holder = holder

    @classmethod
    def start(cls, outlives_us=False):
        """Without `outlives_us` it ends with this process, even if that is killed."""
        if os.geteuid() != 0:
            raise RuntimeError("the cluster's namespaces can be made by root alone: run this as root")
        tie = [] if outlives_us else ["setpriv", "--pdeathsig", "KILL"]
        holder = subprocess.Popen(
            [*tie, "unshare", "--net", "--pid", "--fork", "--kill-child", "sh", "-c", HOLD],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            process_group=0,  # Ctrl-C is for the tests, which then end this in order
        )
        if holder.stdout.readline() != "ready\n":
            raise RuntimeError(f"no namespaces (packages util-linux and iproute2 are needed): {holder.stderr.read()}")
        return cls(holder.pid, holder)

    def inside(self, command, new_process_space=False):
        """The command line that runs `command` in here; with `new_process_space` so that it ends with this place."""
        spaces = [f"--net=/proc/{self.pid}/ns/net"]
        if new_process_space:
            spaces.append(f"--pid=/proc/{self.pid}/ns/pid_for_children")
        return ["nsenter", *spaces, "--", *map(str, command)]

    def launch(self, command, log, environment=None):
        """Starts a program that stays until the end of this place; its output goes to the file `log`."""
        with open(log, "wb") as output:
            return subprocess.Popen(
                self.inside(command, new_process_space=True),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                process_group=0,
                env=environment,
            )

    def exists(self):
        """Whether the process is there and still ours: ids are used again."""
        with contextlib.suppress(OSError):
            return b"unshare\0--net\0" in Path(f"/proc/{self.pid}/cmdline").read_bytes()
        return False

    def end(self):
        if self.exists():
            os.kill(self.pid, signal.SIGKILL)
        if self.holder:
            self.holder.communicate()
