#!/usr/bin/env bash
# Checks how the sources look and whom they include. `tools/lint.sh --fix` lays them out instead.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
PATH=$PWD/.venv/bin:$PATH

sources() { # files that git tracks or would track, without those deleted a moment ago
  git ls-files --cached --others --exclude-standard -- "$@" | while read -r file; do [[ ! -f $file ]] || echo "$file"; done
}

mapfile -t cxx < <(sources '*.h' '*.cc' '*.cu' '*.cuh')
mapfile -t rust < <(sources '*.rs')
mapfile -t shell < <(sources '*.sh' '.ci/run')
rustfmt=(rustfmt --quiet --edition 2021 --config-path trainer/text/ffi)

if [[ ${1:-} == --fix ]]; then
  clang-format -i "${cxx[@]}"
  ruff check --quiet --fix .
  ruff format --quiet .
  if command -v rustfmt >/dev/null; then "${rustfmt[@]}" "${rust[@]}"; fi
  exit
fi

status=0
run() {
  echo "lint: $1"
  shift
  "$@" || status=1
}
skip() { echo "lint: $1 is not installed: skipped"; }

run "clang-format, ${#cxx[@]} files" clang-format --dry-run -Werror "${cxx[@]}"
run 'ruff check' ruff check --quiet .
run 'ruff format' ruff format --quiet --check .
if command -v shellcheck >/dev/null; then run 'shellcheck' shellcheck "${shell[@]}"; else skip shellcheck; fi
if command -v rustfmt >/dev/null; then run 'rustfmt' "${rustfmt[@]}" --check "${rust[@]}"; else skip rustfmt; fi
run 'include arrows' python tools/check_includes.py
((status == 0)) || echo 'lint: failed; layout is repaired by: make format' >&2
exit "$status"
