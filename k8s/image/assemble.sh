#!/usr/bin/env bash
# Lays out what the image holds besides Debian's packages: the bundle that `make bundle` made, and the libraries of the
# PyTorch that it was linked with.
set -euo pipefail
shopt -s nullglob

into=$(realpath --canonicalize-missing "${1:?usage: k8s/image/assemble.sh FOLDER}")
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
home=$into/opt/rankwise
packages=$(.venv/bin/python -c 'import importlib.util as u; print(u.find_spec("torch").submodule_search_locations[0])')/..

mkdir -p "$home/site-packages" "$into/usr/local/bin"
tar --extract --file build/rankwise-*.tar.gz --directory "$home" --strip-components 1
(
  cd "$packages"
  tar --create torch/version.py torch/lib nvidia/*/lib
) | tar --extract --directory "$home/site-packages"
ln -s site-packages/torch "$home/torch"
ln -s /opt/rankwise/rankwise "$into/usr/local/bin/rankwise"
install -D --mode=755 k8s/image/worker.sh "$into/usr/local/bin/rankwise-worker"
install -D --mode=644 k8s/image/sshd_config "$into/etc/rankwise/sshd_config"
install -D --mode=644 k8s/image/ssh_config "$into/etc/ssh/ssh_config.d/rankwise.conf"
