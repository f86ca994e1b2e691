#!/usr/bin/env bash
# Downloads Debian packages and unpacks them under .deps/NAME. Nothing is installed and no service starts.
set -euo pipefail

usage() {
  cat <<'TEXT'
usage: tools/fetch_deb.sh NAME...

Unpacks each package into .deps/NAME; a package that is there already is left alone.
Dependencies are not followed: use it for data and for programs that stand alone.

example: tools/fetch_deb.sh dict-devil prometheus     -> .deps/prometheus/usr/bin/promtool
TEXT
}

fail() {
  echo "fetch_deb: $*" >&2
  exit 1
}

# A folder appears under its final name only when it is complete.
fetch() {
  local name=$1 work=$DEPS/.$1.$$
  [[ $name =~ ^[a-z0-9][a-z0-9+.-]+$ ]] || fail "'$name' is no package name"
  if [[ -d $DEPS/$name ]]; then
    echo "$name: already in .deps/$name"
    return
  fi
  mkdir -p "$work/root"
  trap 'rm -rf "$work"' EXIT
  # APT::Sandbox::User=root: otherwise apt, run by root, warns when its own user cannot reach the folder.
  (cd "$work" && apt-get -q -o APT::Sandbox::User=root download "$name") ||
    fail "cannot download $name; refresh the package lists (sudo apt-get update) and try again"
  dpkg -x "$work/$name"_*.deb "$work/root" || fail "cannot unpack $name"
  mv "$work/root" "$DEPS/$name"
  rm -rf "$work"
  trap - EXIT
  echo "$name: unpacked into .deps/$name"
}

case ${1:-} in
  -h | --help) usage; exit 0 ;;
  '') usage >&2; exit 64 ;;
esac
DEPS=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)/.deps
mkdir -p "$DEPS"
for name in "$@"; do fetch "$name"; done
