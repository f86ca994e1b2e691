"""A run as a restricted container has it: not root, no capabilities, nothing to be had of them, a root that is read-only."""

import os
import shutil
import signal

import pytest

from program import RANKWISE, Job
from runs import Run

USER = 65532
# /mnt, /dev/shm and what lies below /mnt are all that can be written.
START = f"""
mount --make-rprivate / && mount --bind "$1" /mnt && mount -o remount,bind,ro / && shift && cd /mnt || exit 1
touch /tmp/here 2>/dev/null && exit 2
exec setpriv --reuid {USER} --regid {USER} --clear-groups --bounding-set=-all --inh-caps=-all --no-new-privs "$@"
"""

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="namespaces and mounts want root")


@pytest.fixture
def run(tiny, tmp_path):
    directory = tmp_path / "mnt"
    shutil.copytree(tiny.directory, directory / "tiny", ignore=shutil.ignore_patterns("cache"))
    (directory / "tmp").mkdir()
    data = {"train": [{"path": "tiny/train.jsonl", "format": "messages"}], "cache_dir": "cache"}
    settings = tiny.settings(model=dict(path="tiny/model"), data=data, train=dict(max_steps=200, save_steps=50))
    run = Run(directory, settings)
    for path in [directory, *directory.rglob("*")]:
        os.chown(path, USER, USER)
    return run


def start(run):
    launch = [RANKWISE, "launch", "--np", 2, "train", "recipe.yaml"]
    command = ["--mount", "sh", "-c", START, "sh", run.directory, *launch]
    return Job(run.directory, 0, *command, program="unshare", environment={"TMPDIR": "/mnt/tmp"})


def test_trains_stops_saves_and_goes_on(run):
    with start(run) as job:
        job.wait_for(lambda: run.last_step() >= 3, "step 3")
        job.main.send(signal.SIGTERM)
        assert job.wait() == 75, job.output()
    stopped_at = run.last_step()
    assert run.checkpoints() == [stopped_at]
    assert (run.output / "config.yaml").stat().st_uid == USER
    with start(run) as job:
        assert job.wait() == 0, job.output()
        assert f"continuing behind step {stopped_at}" in job.output()
    assert (run.output / "final/adapter_model.safetensors").exists()
