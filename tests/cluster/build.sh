#!/usr/bin/env bash
# A Kubernetes API server and the definitions of the kinds that k8s/ uses, built from Go modules: once for each content
# of controlplane/ and each Go, about ten minutes on two cores. The last line on stdout is the folder that holds them.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/controlplane"

PROGRAMS=(k8s.io/kubernetes/cmd/kubectl k8s.io/kubernetes/cmd/kube-apiserver go.etcd.io/etcd/server/v3)
DEFINITIONS=(
  github.com/kubeflow/mpi-operator@v0.6.0:manifests/base/kubeflow.org_mpijobs.yaml
  github.com/kubeflow/trainer/v2@v2.0.0:manifests/base/crds/trainer.kubeflow.org_*.yaml
  sigs.k8s.io/jobset@v0.10.1:config/components/crd/bases/*.yaml
)

fail() {
  echo "tests/cluster/build.sh: $*" >&2
  exit 69
}

build() {
  local name=${1##*/} began=$SECONDS of=k8s.io/component-base/version version minor
  version=$(awk '$1 == "k8s.io/kubernetes" { print $2 }' go.mod)
  minor=${version#v1.} minor=${minor%%.*}
  if [[ $name == v3 ]]; then name=etcd; fi
  CGO_ENABLED=0 go build -p 2 -trimpath -o "$2/$name" \
    -ldflags "-s -w -X $of.gitVersion=$version -X $of.gitMajor=1 -X $of.gitMinor=$minor -X $of.gitTreeState=clean" "$1"
  printf '%-16s %4d s\n' "$name" $((SECONDS - began)) >&2
}

fetch_definitions() {
  local module=${1%%:*} folder
  folder=$(cd / && go mod download -json "$module" | sed -n 's/^\t"Dir": "\(.*\)",$/\1/p')
  [[ -n $folder ]] || fail "go mod download $module gave nothing"
  # shellcheck disable=SC2086 # a pattern
  (cd "$folder" && cp ${1#*:} "$2")
}

main() {
  command -v go >/dev/null || fail "no go on PATH; install Go 1.24 or newer"
  local key into partial
  key=$({ go version && cat go.mod go.sum ../build.sh; } | sha256sum | cut -c1-16)
  into=${XDG_CACHE_HOME:-$HOME/.cache}/rankwise/cluster-$key
  if [[ ! -d $into ]]; then
    partial=$into.partial
    rm -rf "$partial" && mkdir -p "$partial/definitions"
    for definition in "${DEFINITIONS[@]}"; do fetch_definitions "$definition" "$partial/definitions"; done
    for program in "${PROGRAMS[@]}"; do build "$program" "$partial"; done
    mv "$partial" "$into"
  fi
  echo "$into"
}

main
