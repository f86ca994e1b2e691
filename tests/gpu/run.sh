#!/usr/bin/env bash
# What only a GPU can show: the C++ tests that need one, parity with PEFT, whole runs and tests/gpu/, a GPU for each rank.
# What finds too few of them here skips, and says so. The programs lie in RANKWISE_BUILD: a build, or the folder that an
# archive of `tools/bundle.sh --tests` unpacks to, which holds this script too; there it needs a python3 with torch,
# transformers, peft, tokenizers, pyyaml and pytest, and mpirun unless the archive brings it. With pytest-xdist four tests
# share the GPUs at a time. Arguments are pytest's.
set -uo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
cd "$root" || exit

if [[ -z ${RANKWISE_BUILD:-} ]]; then
  if [[ -x $root/bin/rankwise ]]; then RANKWISE_BUILD=$root; else RANKWISE_BUILD=$root/build/release; fi
fi
export RANKWISE_BUILD RANKWISE_TEST_DEVICE=cuda
export OMP_NUM_THREADS=1 OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1
if [[ -x $RANKWISE_BUILD/mpirun ]]; then PATH=$RANKWISE_BUILD:$PATH; fi
PYTHON_TESTS=(tests/parity/test_{model,bfloat16,real_model}_parity.py tests/e2e/test_train.py)
TIMED=tests/gpu/test_faults.py # asks how long an end takes: others that start and end on the same GPUs hold it up

shopt -s nullglob
programs=("$RANKWISE_BUILD"/gpu_tests/{,ranks/}*)
if ((${#programs[@]} == 0)); then
  echo "test-gpu: $RANKWISE_BUILD/gpu_tests holds no program: build the target gpu_tests, or unpack a bundle made with --tests" >&2
  exit 66
fi
gpus=$(python3 -c 'import torch; print(torch.cuda.device_count())') || {
  echo "test-gpu: python3 on PATH has no torch" >&2
  exit 69
}

status=0
failed=()
run() {
  echo "==== $1"
  "${@:2}" </dev/null || { status=1 && failed+=("$1"); }
}
for program in "${programs[@]}"; do
  name=${program##*/}
  case $program in
    */gpu_tests/ranks | */gpu_tests/bench) ;;
    */ranks/*) for ranks in 1 2 4; do run "$name on $ranks" mpirun --oversubscribe -np "$ranks" "$program"; done ;;
    *) run "$name" "$program" ;;
  esac
done
at_a_time=()
if python3 -c 'import xdist' &>/dev/null; then at_a_time=(--numprocesses 4 --dist worksteal); fi
run pytest python3 -m pytest -q -rs "${at_a_time[@]}" "$@" --deselect "$TIMED" "${PYTHON_TESTS[@]}" tests/gpu/test_*.py
run "pytest, one at a time" python3 -m pytest -q -rs "$TIMED"

if ((status != 0)); then
  echo "test-gpu: failed on a host with $gpus GPU(s): ${failed[*]}" >&2
elif ((gpus == 0)); then
  echo "test-gpu: no GPU here: every test that needs one was skipped"
else
  echo "test-gpu: passed on $gpus GPU(s); what needs more was skipped"
fi
exit "$status"
