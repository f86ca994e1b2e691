"""The decisions of setup.sh, with the system's programs replaced: nothing is installed here."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

SETUP = Path(__file__).resolve().parents[2] / "tools/setup.sh"


@pytest.fixture(scope="module")
def programs_but_cargo(tmp_path_factory):
    """A folder for PATH: this machine's programs, without the Rust that it may have."""
    folder = tmp_path_factory.mktemp("programs")
    for program in Path("/usr/bin").iterdir():
        if program.name not in ("cargo", "rustc"):
            (folder / program.name).symlink_to(program)
    return folder


@pytest.fixture
def system(tmp_path, programs_but_cargo):
    """A copy of setup.sh in a tree of its own, and a function that runs shell code with it among fake programs."""
    (tmp_path / "tools").mkdir()
    shutil.copy(SETUP, tmp_path / "tools")
    fakes = tmp_path / "fakes"
    fakes.mkdir()

    def run(code, **programs):
        for name, body in programs.items():
            path = fakes / name.replace("_", "-")
            path.write_text(f"#!/bin/bash\n{body}\n")
            path.chmod(0o755)
        environment = {**os.environ, "PATH": f"{fakes}:{programs_but_cargo}", "HOME": str(tmp_path)}
        command = f"source tools/setup.sh; {code}"
        return subprocess.run(["bash", "-c", command], cwd=tmp_path, env=environment, capture_output=True, text=True)

    run.root = tmp_path
    return run


def apt_cache(**candidates):
    """apt-cache for an archive of these packages."""
    lines = "\n".join(
        f"{name.replace('_', '-')}) echo '  Candidate: {version}' ;;" for name, version in candidates.items()
    )
    names = " ".join(candidates).replace("_", "-")
    return f'case $1 in pkgnames) printf "%s\\n" {names} | grep "^$2" ;; policy) case $2 in\n{lines}\nesac ;; esac'


@pytest.mark.parametrize(
    "archive, package",
    [
        ({"cargo": "0.66.0+ds1-1", "cargo_web": "1.96.0+dfsg1-1~deb12u2"}, "cargo-web"),
        ({"cargo": "1.75.0", "cargo_1.85": "1.85.1", "cargo_1.91": "1.91.1", "cargo_1.80": "1.80.1"}, "cargo-1.91"),
        ({"cargo": "1.85.0+dfsg3-1", "cargo_web": "1.96.0"}, "cargo"),
        ({"cargo": "1.75.0", "cargo_1.80": "1.80.1", "cargo_1.85_doc": "1.85.1", "cargo_web": "(none)"}, ""),
        ({}, ""),
    ],
    ids=["debian-12", "ubuntu-24.04", "debian-13", "too-old", "no-lists"],
)
def test_the_package_that_holds_a_new_enough_rust_is_chosen(system, archive, package):
    result = system("newest_cargo_package", apt_cache=apt_cache(**archive))
    assert (result.returncode, result.stdout.strip(), result.stderr) == (0, package, "")


@pytest.mark.parametrize("version, usable", [("1.85.0", True), ("1.100.0", True), ("1.84.9", False), ("0.66.0", False)])
def test_a_cargo_that_is_there_counts_by_its_version(system, version, usable):
    assert (system("is_new_enough cargo", cargo=f"echo cargo {version} '(hash date)'").returncode == 0) is usable


def test_a_broken_cargo_does_not_count(system):
    assert system("is_new_enough cargo", cargo="exit 1").returncode != 0


def test_an_old_cargo_on_the_path_does_not_hide_that_of_rustup(system):
    rustup = system.root / ".cargo/bin/cargo"
    rustup.parent.mkdir(parents=True)
    rustup.write_text("#!/bin/sh\necho cargo 1.90.0\n")
    rustup.chmod(0o755)
    assert system("find_cargo", cargo="echo cargo 1.63.0").stdout.strip() == str(rustup)


def test_the_build_s_cargo_calls_the_chosen_one_with_its_own_rustc(system):
    code = 'wrap_cargo "$PWD/fakes/cargo"; PATH=/usr/bin:/bin .deps/bin/cargo build "a b"'
    result = system(code, cargo='printf "%s|" "$@"; rustc', rustc="echo the rustc beside it")
    assert result.stdout == "build|a b|the rustc beside it\n"


def test_the_build_s_cargo_is_not_taken_for_the_system_s(system):
    code = "wrap_cargo /nowhere/cargo; PATH=$PWD/.deps/bin:$PATH find_cargo"
    assert ".deps" not in system(code).stdout


def test_only_missing_packages_are_asked_for(system):
    listing = 'for p in "${@:4}"; do [[ $p == git || $p == ccache ]] || echo "installed $p"; done; exit 1'
    result = system("missing_packages", dpkg_query=f'set -- a "$@"\n{listing}')
    assert result.stdout.split() == ["ccache", "git"]


def test_a_package_that_was_removed_but_left_its_files_is_missing(system):
    listing = 'shift 3; for p; do [[ $p == git ]] && echo "config-files git" || echo "installed $p"; done'
    assert system("missing_packages", dpkg_query='set -- a "$@"\n' + listing).stdout.split() == ["git"]


def test_a_failing_step_shows_its_output_and_stops(system):
    code = (
        'mkdir -p .deps; broken() { echo "no space left"; false; echo unreachable; }; step "wheels" broken; echo after'
    )
    result = system(code)
    assert result.returncode == 1
    assert "no space left" in result.stderr and ".deps/setup.log" in result.stderr
    assert "unreachable" not in result.stderr and "after" not in result.stdout


def test_cuda_libraries_get_the_names_that_linkers_look_for(system):
    root = system.root / ".venv/lib/python3.11/site-packages/nvidia/cu13"
    (root / "lib").mkdir(parents=True)
    (root / "lib/libcudart.so.13").write_text("library")
    for _ in range(2):
        assert system("link_cuda_libraries").returncode == 0
    assert (root / "lib64/libcudart.so").read_text() == "library"
    assert os.readlink(root / "lib/libcudart.so") == "libcudart.so.13"


def test_the_stamp_follows_the_requirements(system):
    (system.root / "tools/requirements.txt").write_text("torch==2.11.0\n")
    (system.root / ".venv/bin").mkdir(parents=True)
    (system.root / ".venv/bin/python").symlink_to("/bin/true")
    assert system("venv_complete").returncode != 0
    assert system('wanted_stamp >"$STAMP"; venv_complete').returncode == 0
    (system.root / "tools/requirements.txt").write_text("torch==2.12.0\n")
    assert system("venv_complete").returncode != 0


def test_an_unknown_option_is_a_usage_error(system):
    result = subprocess.run([system.root / "tools/setup.sh", "--chekc"], capture_output=True, text=True)
    assert result.returncode == 64
    assert "usage:" in result.stderr
