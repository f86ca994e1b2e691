#!/usr/bin/env bash
# Downloads Debian packages and unpacks them under .deps/NAME. Nothing is installed and no service starts.
set -euo pipefail

usage() {
  cat <<'TEXT'
usage: tools/fetch_deb.sh [--with-dependencies] NAME...

Unpacks each package into .deps/NAME; a package that is there already is left alone.
Dependencies are not followed, which does for data and for programs that stand alone.

  --with-dependencies   into the same folder also what this system lacks of the packages that NAME depends on

example: tools/fetch_deb.sh dict-devil prometheus     -> .deps/prometheus/usr/bin/promtool
TEXT
}

fail() {
  echo "fetch_deb: $*" >&2
  exit 1
}

# NAME and, of its dependencies, those that an installation would bring.
missing_for() { apt-get -q -s --no-install-recommends install "$1" | sed -n 's/^Inst \([^ ]*\).*/\1/p'; }

# A folder appears under its final name only when it is complete.
fetch() {
  local name=$1 work=$DEPS/.$1.$$ packages=("$1") package
  [[ $name =~ ^[a-z0-9][a-z0-9+.-]+$ ]] || fail "'$name' is no package name"
  if [[ -d $DEPS/$name ]]; then
    echo "$name: already in .deps/$name"
    return
  fi
  mkdir -p "$work/root"
  trap 'rm -rf "$work"' EXIT
  # APT::Sandbox::User=root: otherwise apt, run by root, warns when its own user cannot reach the folder.
  ((!DEPENDENCIES)) || mapfile -t -O 1 packages < <(missing_for "$name" | grep -vx "$name")
  (cd "$work" && apt-get -q -o APT::Sandbox::User=root download "${packages[@]}") ||
    fail "cannot download ${packages[*]}; refresh the package lists (sudo apt-get update) and try again"
  for package in "$work"/*.deb; do dpkg -x "$package" "$work/root" || fail "cannot unpack ${package##*/}"; done
  mv "$work/root" "$DEPS/$name"
  rm -rf "$work"
  trap - EXIT
  echo "$name: unpacked into .deps/$name"
}

DEPENDENCIES=0
if [[ ${1:-} == --with-dependencies ]]; then
  DEPENDENCIES=1
  shift
fi
case ${1:-} in
  -h | --help) usage; exit 0 ;;
  '') usage >&2; exit 64 ;;
esac
DEPS=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)/.deps
mkdir -p "$DEPS"
for name in "$@"; do fetch "$name"; done
