#!/usr/bin/env bash
# Line coverage of the rooms that need no model, each against the floor. Builds into build/coverage.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
PATH=$PWD/.deps/bin:$PWD/.venv/bin:$PATH

FLOOR=85 # percent
ROOMS=(base configs trainer/data trainer/weights trainer/checkpoint)
BUILD=build/coverage

cmake -S . -B "$BUILD" -G Ninja -DCMAKE_BUILD_TYPE=Debug -DRANKWISE_CUDA=OFF \
  '-DCMAKE_CXX_FLAGS_DEBUG=-O0 -g1 --coverage -fprofile-update=atomic'
cmake --build "$BUILD"
find "$BUILD" -name '*.gcda' -delete
ctest --test-dir "$BUILD" --output-on-failure --parallel "$(nproc)"

gcovr --root . --object-directory "$BUILD" --exclude 'tests/' --exclude '.venv/' --exclude 'build/' \
  --gcov-ignore-errors=no_working_dir_found --json "$BUILD/coverage.json" --txt "$BUILD/coverage.txt"
status=0
for room in "${ROOMS[@]}"; do
  printf '%-20s' "$room"
  # gcovr replaces its output files by new ones, also /dev/null if it is root: give it a file of its own.
  gcovr --root . --add-tracefile "$BUILD/coverage.json" --filter "$room/" --fail-under-line "$FLOOR" --print-summary \
    --txt "$BUILD/coverage-${room##*/}.txt" 2>"$BUILD/gcovr.log" | sed -n 's/^lines: //p' || status=1
done
echo "by file: $BUILD/coverage.txt; floor: $FLOOR %"
exit "$status"
