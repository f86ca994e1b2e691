"""`make test-gpu` without a GPU: what it runs, how it ends, and what a test does that finds too few GPUs."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tests/support"))
import gpus  # noqa: E402

PYTHON = """#!/bin/sh
case "$*" in
  *"import xdist") exit $NO_XDIST ;;
  -c*) echo $GPUS ;;
  *) echo "on $RANKWISE_TEST_DEVICE: $*" ;;
esac
"""
MPIRUN = """#!/bin/sh
echo "mpirun $2 $3 $(basename $4)"
"""


def script(path, text):
    path.parent.mkdir(exist_ok=True, parents=True)
    path.write_text(text)
    path.chmod(0o755)


@pytest.fixture
def run(tmp_path):
    """Runs the script over programs that exit with the given codes, on a host that says it has so many GPUs."""

    def run_with(gpus_here, no_xdist=0, **codes):
        script(tmp_path / "bin/python3", PYTHON)
        script(tmp_path / "bin/mpirun", MPIRUN)
        for name, code in codes.items():
            script(tmp_path / f"gpu_tests/{name}", f"#!/bin/sh\nexit {code}\n")
        path = f"{tmp_path}/bin:/usr/bin:/bin"
        environment = {"PATH": path, "RANKWISE_BUILD": str(tmp_path), "GPUS": str(gpus_here), "NO_XDIST": str(no_xdist)}
        return subprocess.run([ROOT / "tests/gpu/run.sh"], env=environment, capture_output=True, text=True)

    return run_with


def test_programs_and_python_tests_run_on_gpus(run):
    result = run(2, contract=0, kernels=0)
    assert result.returncode == 0
    lines = result.stdout.splitlines()
    assert lines[:3] == ["==== contract", "==== kernels", "==== pytest"]
    assert lines[3].startswith("on cuda: -m pytest") and "tests/parity/test_model_parity.py" in lines[3]
    assert lines[4] == "==== pytest, one at a time"
    assert lines[5].startswith("on cuda: -m pytest") and lines[5].endswith("tests/gpu/test_faults.py")
    assert lines[6] == "test-gpu: passed on 2 GPU(s); what needs more was skipped"


def test_what_asks_how_long_an_end_takes_shares_nothing(run):
    shared, alone = (line for line in run(1, contract=0).stdout.splitlines() if line.startswith("on cuda"))
    assert "--numprocesses" in shared and "--deselect tests/gpu/test_faults.py" in shared
    assert "--numprocesses" not in alone


@pytest.mark.parametrize("no_xdist", [0, 1])
def test_four_tests_share_the_gpus_where_the_host_can(run, no_xdist):
    pytest_line = run(1, no_xdist, contract=0).stdout.splitlines()[2]
    assert ("--numprocesses 4" in pytest_line) == (not no_xdist)


def test_programs_of_several_ranks_run_on_each_number_of_them(run, tmp_path):
    script(tmp_path / "gpu_tests/ranks/processes", "")
    lines = run(2, contract=0).stdout.splitlines()
    assert [line for line in lines if "mpirun" in line] == [f"mpirun -np {ranks} processes" for ranks in (1, 2, 4)]
    assert lines[:3] == ["==== contract", "==== processes on 1", "mpirun -np 1 processes"]


def test_a_host_without_a_gpu_is_no_failure(run):
    result = run(0, contract=0)
    assert (result.returncode, result.stderr) == (0, "")
    assert result.stdout.splitlines()[-1] == "test-gpu: no GPU here: every test that needs one was skipped"


def test_one_failure_is_named_and_the_others_run(run):
    result = run(1, contract=1, kernels=0)
    assert result.returncode == 1
    assert "==== kernels" in result.stdout and "on cuda" in result.stdout
    assert result.stderr == "test-gpu: failed on a host with 1 GPU(s): contract\n"


def test_a_folder_without_programs_is_refused(run):
    result = run(1)
    assert result.returncode == 66 and "build the target gpu_tests" in result.stderr


@pytest.mark.parametrize("ranks, reason", [(1, ""), (2, ""), (4, "4 GPU(s) needed, 2 here")])
def test_each_rank_wants_a_gpu_of_its_own(monkeypatch, ranks, reason):
    monkeypatch.setattr(gpus, "ON_GPUS", True)
    monkeypatch.setattr(gpus, "num_gpus", lambda: 2)
    assert gpus.missing_gpus(ranks) == reason


def test_other_sessions_skip_nothing(monkeypatch):
    monkeypatch.setattr(gpus, "ON_GPUS", False)
    monkeypatch.setattr(gpus, "num_gpus", lambda: 0)
    assert gpus.missing_gpus(4) == ""


def test_without_a_gpu_a_test_skips_before_it_prepares_anything():
    command = [sys.executable, "-m", "pytest", "-q", "-rs", "tests/parity/test_bfloat16_parity.py"]
    environment = os.environ | {"RANKWISE_TEST_DEVICE": "cuda", "CUDA_VISIBLE_DEVICES": ""}
    result = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert result.returncode == 0 and "SKIPPED [2]" in result.stdout, result.stdout
    assert "1 GPU(s) needed, 0 here" in result.stdout
