"""Becomes a container's first process: run by pods.py inside new namespaces, with what it needs in one JSON argument.

As a kubelet and its runtime would have it: the image's root, read-only if the container asks for that, the volumes in
their places, the pod's host name, user and environment, no capabilities, and no way to more of them.
"""

import ctypes
import json
import os
import subprocess
import sys
from pathlib import Path

LIBC = ctypes.CDLL(None, use_errno=True)
PR_CAPBSET_DROP, PR_SET_NO_NEW_PRIVS = 24, 38
DEVICES = ["null", "zero", "full", "random", "urandom", "tty"]


def mount(*words):
    subprocess.run(["mount", *map(str, words)], check=True)


def prctl(option, value):
    if LIBC.prctl(option, value, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), f"prctl {option}")


def bind(source, target, read_only=False):
    target.parent.mkdir(parents=True, exist_ok=True)
    target.mkdir(exist_ok=True) if Path(source).is_dir() else target.touch()
    mount("--bind", source, target)
    if read_only:
        mount("-o", "remount,bind,ro", target)


def mount_root(spec):
    """The image below, a layer of the container's own above it."""
    root, upper, work = (Path(spec["state"]) / name for name in ("root", "upper", "work"))
    for folder in (root, upper, work):
        folder.mkdir(parents=True)
    mount("-t", "overlay", "overlay", "-o", f"lowerdir={spec['image']},upperdir={upper},workdir={work}", root)
    return root


def mount_devices(root, termination_log):
    mount("-t", "tmpfs", "-o", "mode=755", "tmpfs", root / "dev")
    for name in DEVICES:
        bind(f"/dev/{name}", root / "dev" / name)
    (root / "dev/fd").symlink_to("/proc/self/fd")
    bind(termination_log, root / "dev/termination-log")


def mount_all(spec):
    root = mount_root(spec)
    mount("-t", "proc", "proc", root / "proc")
    bind("/sys", root / "sys", read_only=True)
    mount_devices(root, spec["termination_log"])
    bind(spec["hosts"], root / "etc/hosts", read_only=True)
    for volume in spec["mounts"]:
        bind(volume["source"], root / volume["target"].lstrip("/"), volume["read_only"])
    if spec["read_only_root"]:
        mount("-o", "remount,ro", root)
    return root


def become(spec, root):
    for capability in range(int(Path("/proc/sys/kernel/cap_last_cap").read_text()) + 1):
        prctl(PR_CAPBSET_DROP, capability)
    os.chroot(root)
    os.chdir(spec["directory"])
    os.setgroups([spec["group"]])
    os.setresgid(*[spec["group"]] * 3)
    os.setresuid(*[spec["user"]] * 3)  # which takes the capabilities away
    prctl(PR_SET_NO_NEW_PRIVS, 1)


def main():
    spec = json.loads(sys.argv[1])
    mount("--make-rprivate", "/")
    root = mount_all(spec)
    LIBC.sethostname(spec["hostname"].encode(), len(spec["hostname"]))
    become(spec, root)
    os.execvpe(spec["command"][0], spec["command"], spec["environment"])


if __name__ == "__main__":
    main()
