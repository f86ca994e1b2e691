"""The archive for GPU hosts: it runs where it is unpacked, with no library of the build's host but the few it names."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from program import BUILD, ENVIRONMENT, RANKWISE, ROOT, run

PYTHON = Path(sys.executable).parent
OF_EVERY_HOST = r"(linux-vdso|ld-linux|lib(c|m|dl|rt|util|pthread|stdc\+\+|gcc_s))[.-]"
OF_OPEN_MPI = r"lib(mpi|open-|hwloc|event_|udev\.|z\.)"


def unpacked(directory, *options):
    """The folder of a bundle made and unpacked in `directory`."""
    cpu = [] if (BUILD / "librankwise_cuda.so").exists() else ["--cpu"]
    command = [ROOT / "tools/bundle.sh", "--output", directory, *cpu, *options]
    subprocess.run(command, env={**os.environ, "RANKWISE_BUILD": str(BUILD)}, check=True)
    (archive,) = directory.glob("rankwise-*-linux-x86_64.tar.gz")
    subprocess.run(["tar", "-xf", archive, "-C", directory], check=True)
    return directory / archive.name.removesuffix(".tar.gz")


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    return unpacked(tmp_path_factory.mktemp("bundle"))


def start(program, *arguments, cwd=None, **environment):
    started_with = {key: value for key, value in ENVIRONMENT.items() if key != "RANKWISE_BUILD"}
    return subprocess.run(
        [program, *arguments],
        env=started_with | {"PATH": f"{PYTHON}:/usr/bin:/bin"} | environment,
        cwd=cwd,
        capture_output=True,
        text=True,
    )


def without_free_memory(plan):
    return re.sub(r"[0-9.]+ [KMG]iB available", "", plan)


def test_the_program_runs_with_the_torch_of_python3(bundle):
    assert start(bundle / "rankwise", "--version").stdout == start(RANKWISE, "--version").stdout != ""


def test_plan_of_a_configuration(bundle, new_run):
    arguments = ["plan", new_run().config, "--ranks", "2"]
    ours, theirs = (start(program, *arguments).stdout for program in (bundle / "rankwise", RANKWISE))
    assert without_free_memory(ours) == without_free_memory(theirs) != ""


def test_every_other_library_is_in_the_bundle(bundle, tmp_path):
    loaded = tmp_path / "loaded"
    start(bundle / "rankwise", "--version", LD_DEBUG="files", LD_DEBUG_OUTPUT=str(loaded))
    traces = "".join(path.read_text() for path in tmp_path.glob("loaded.*") if "bin/rankwise" in path.read_text())
    libraries = set(re.findall(r"calling init: (\S+)", traces))
    assert any("prometheus" in library for library in libraries), "the program's libraries were not seen"
    strangers = [
        library
        for library in map(Path, libraries)
        if not library.is_relative_to(bundle) and "site-packages" not in library.parts
    ]
    assert [s for s in strangers if not re.match(f"{OF_EVERY_HOST}|{OF_OPEN_MPI}", s.name)] == []


def test_a_host_without_torch_is_told_what_to_install(bundle):
    result = start(bundle / "rankwise", "--version", TORCH_DIR="/nowhere")
    assert result.returncode == 69 and "pip install torch==2." in result.stderr


def test_a_torch_of_another_version_is_refused(bundle, tmp_path):
    (tmp_path / "version.py").write_text("__version__ = '1.13.1+cu117'\n")
    result = start(bundle / "rankwise", "--version", TORCH_DIR=str(tmp_path))
    assert result.returncode == 69 and "is of version 1.13.1" in result.stderr


def test_two_ranks_train_with_the_open_mpi_of_the_bundle(new_run, tmp_path):
    """Its own mpirun, plug-ins and libraries: what the ranks map lies in the bundle."""
    bundle = unpacked(tmp_path, "--with-mpi")
    training = new_run(train={"max_steps": 4})
    command = ["--oversubscribe", "-np", "2", bundle / "rankwise", "train", training.config]
    log = tmp_path / "loaded"
    output = run(
        training.directory, 0, *command, program=bundle / "mpirun",
        environment={"PATH": f"{PYTHON}:/usr/bin:/bin", "LD_DEBUG": "files", "LD_DEBUG_OUTPUT": str(log)},
    )  # fmt: skip
    assert "step 4/4" in output
    loaded = set(re.findall(r"calling init: (\S+)", "".join(p.read_text() for p in tmp_path.glob("loaded.*"))))
    of_mpi = [path for path in loaded if re.search(r"mca_|libmpi|libopen-|libpmix|libhwloc|libevent", path)]
    assert of_mpi and [path for path in of_mpi if not Path(path).is_relative_to(bundle)] == []


def test_the_gpu_tests_run_from_a_bundle(tmp_path):
    """Found and linked there; without a GPU all that needs one is skipped, which is said."""
    built = {path.relative_to(BUILD) for path in (BUILD / "gpu_tests").rglob("*")}
    if not built:
        pytest.skip("a build without CUDA has no tests for GPUs")
    bundle = unpacked(tmp_path, "--tests")
    assert {path.relative_to(bundle) for path in (bundle / "gpu_tests").rglob("*")} == built
    result = start(bundle / "tests/gpu/run.sh", cwd=bundle, CUDA_VISIBLE_DEVICES="")
    assert result.returncode == 0, result.stdout + result.stderr
    assert "[  SKIPPED ]" in result.stdout and "1 GPU(s) needed, 0 here" in result.stdout
    assert result.stdout.splitlines()[-1] == "test-gpu: no GPU here: every test that needs one was skipped"
    assert start(bundle / "tests/support/parity_tool").returncode == 64, "without arguments: a wrong command line"
