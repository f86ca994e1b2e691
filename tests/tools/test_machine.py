"""The commit that a table of results names (tests/bench/machine.py)."""

import subprocess
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "bench"))
import machine  # noqa: E402

IDENTITY = ["-c", "user.name=A", "-c", "user.email=a@example.org", "-c", "commit.gpgsign=false"]


@pytest.fixture
def sources(tmp_path, monkeypatch):
    monkeypatch.delenv("COMMIT", raising=False)
    (tmp_path / "tests/results").mkdir(parents=True)
    for name in ("step.cc", "tests/results/table.md"):
        (tmp_path / name).write_text("as committed")
    for command in (["init", "--quiet"], ["add", "."], [*IDENTITY, "commit", "--quiet", "--message", "all"]):
        subprocess.run(["git", *command], cwd=tmp_path, check=True)
    return tmp_path


def test_a_result_that_was_just_written_is_none_of_the_sources(sources):
    clean = machine.commit(sources)
    (sources / "tests/results/table.md").write_text("another run")
    assert machine.commit(sources) == clean
    assert not clean.endswith("-dirty")


def test_changed_sources_are_dirty(sources):
    clean = machine.commit(sources)
    (sources / "step.cc").write_text("changed")
    assert machine.commit(sources) == f"{clean}-dirty"


def test_a_copy_without_git_is_told(tmp_path, monkeypatch):
    monkeypatch.setenv("COMMIT", "abc1234")
    assert machine.commit(tmp_path) == "abc1234"
    monkeypatch.delenv("COMMIT")
    assert machine.commit(tmp_path) == "unknown"
