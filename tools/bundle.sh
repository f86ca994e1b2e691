#!/usr/bin/env bash
# Packs what a GPU host needs of this program. Run it through `make bundle`.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

BUILD=${RANKWISE_BUILD:-build/release}
OPENMPI=/usr/lib/x86_64-linux-gnu/openmpi/lib # where Debian 12 has it
LIMIT=$((60 << 20))
# What every host has (glibc and the compiler's run time), and what a bundle takes from its host.
FROM_HOST='^(ld-linux|libc\.|libm\.|libdl\.|librt\.|libutil\.|libpthread\.|libstdc\+\+|libgcc_s|libgomp)'
FROM_TORCH='^(libtorch|libc10|libnccl|libcudart|libcu)'
# Transports for hardware that has drivers of its own, and what no MPI program of ours calls.
UNUSED_PLUGINS='libmca_common_(ucx|ofi|verbs|monitoring)|libfabric|libibverbs|libpsm|liboshmem'

usage() {
  cat <<TEXT
usage: tools/bundle.sh [--with-mpi] [--tests] [--cpu] [--output FOLDER]

Packs the program, its libraries and the recipes into FOLDER/rankwise-VERSION-linux-x86_64.tar.gz. It runs on Debian 12,
Ubuntu 22.04 and 24.04 beside the GPU's driver, Open MPI and \`pip install torch\`; USE.txt inside says how.

  --with-mpi        with this Debian's Open MPI, for hosts that have none (glibc 2.36 and newer: not Ubuntu 22.04)
  --tests           with the programs of \`make test-gpu\` and tests/gpu/run.sh, which runs them there
  --cpu             without the CUDA part
  --output FOLDER   default: the folder that holds the build, build/
TEXT
}

fail() {
  echo "bundle: $*" >&2
  exit 1
}

needed() { readelf --dynamic "$1" | sed -n 's/.*(NEEDED).*\[\(.*\)\]/\1/p'; }

# Copies the libraries that FILE needs, and those that they need, into FOLDER; stops at those that SKIP matches.
add_libraries() {
  local file=$1 folder=$2 skip=$3 name path
  while read -r name; do
    if [[ $name =~ $FROM_HOST || $name =~ $FROM_TORCH || $name =~ $skip || -e $folder/$name ]]; then continue; fi
    path=$(ldd "$file" | awk -v name="$name" '$1 == name && $3 ~ "^/" { print $3 }')
    [[ -n $path ]] || fail "$file needs $name, which is not here"
    install -D --mode=644 "$path" "$folder/$name"
    add_libraries "$path" "$folder" "$skip"
  done < <(needed "$file")
}

add_binary() {
  local into=$1 file=$2
  [[ -f $BUILD/$file ]] || fail "$BUILD/$file is missing: run make bundle, or build the targets rankwise, rankwise_cuda, gpu_tests"
  install -D --strip "$BUILD/$file" "$into/bin/${file##*/}"
  add_libraries "$BUILD/$file" "$into/lib" '^libmpi\.'
}

add_program() {
  local into=$1 file
  for file in "${PROGRAM[@]}"; do add_binary "$into" "$file"; done
  sed "s/@TORCH@/$(torch_version)/" tools/bundle/rankwise.sh >"$into/rankwise"
  sed "s/@TORCH@/$(torch_version)/" tools/bundle/USE.txt >"$into/USE.txt"
  chmod 755 "$into/rankwise"
  install --mode=644 LICENSE "$into"
  mkdir "$into/configs"
  cp -R configs/recipes "$into/configs"
}

# The programs at the places where a build has them, as links to the script that finds their libraries; and the Python
# sources of the tests.
add_tests() {
  local into=$1 file
  for file in tests/support/parity_tool $(cd "$BUILD" && find gpu_tests -type f); do
    add_binary "$into" "$file"
    mkdir -p "$into/${file%/*}"
    ln --symbolic --relative "$into/rankwise" "$into/$file"
  done
  for file in tests/conftest.py tests/support/*.py tests/parity/*.py tests/e2e/*.py tests/bench/machine.py tests/gpu/*.py tests/gpu/run.sh; do
    install -D --mode=644 "$file" "$into/$file"
  done
  chmod 755 "$into/tests/gpu/run.sh"
}

# In the folders of Debian's prefix, so that OPAL_PREFIX finds everything.
add_mpi() {
  local into=$1/openmpi plugins=${OPENMPI#/usr/}/openmpi3 plugin
  mkdir -p "$into/bin" "$into/$plugins" "$into/share" "$into/etc" "$into/lib/pmix" "$into/lib/hwloc"
  cp /usr/bin/orterun /usr/bin/orted "$into/bin"
  for plugin in "$OPENMPI"/openmpi3/mca_*.so; do
    if needed "$plugin" | grep -Eq "$UNUSED_PLUGINS"; then continue; fi
    cp "$plugin" "$into/$plugins"
    add_libraries "$plugin" "$into/lib" '^$'
  done
  add_libraries /usr/bin/orterun "$into/lib" '^$'
  cp "$OPENMPI"/../../pmix2/lib/pmix/*.so "$into/lib/pmix"
  cp -R /usr/share/openmpi "$into/share"
  cp /etc/openmpi/openmpi-mca-params.conf /etc/openmpi/openmpi-default-hostfile "$into/etc"
  install --mode=755 tools/bundle/mpirun.sh "$1/mpirun"
  install --mode=644 tools/bundle/openmpi_environment.sh "$into/environment"
}

torch_version() { sed -n "s/^__version__ = '\([0-9.]*\).*/\1/p" "$(cached TORCH_DIR)/version.py"; }

cached() { sed -n "s/^$1:[A-Z]*=//p" "$BUILD/CMakeCache.txt"; }

# The same bytes in, the same archive out.
pack() {
  tar --create --directory "$1" --sort=name --owner=0 --group=0 --numeric-owner --mtime="@$(git log -1 --format=%ct)" \
    "$2" | gzip -9 --no-name >"$3"
}

main() {
  local output=build with_mpi=false with_tests=false name work archive size
  PROGRAM=(rankwise librankwise_cuda.so)
  while (($#)); do
    case $1 in
      --with-mpi) with_mpi=true ;;
      --tests) with_tests=true ;;
      --cpu) PROGRAM=(rankwise) ;;
      --output) output=${2:?}; shift ;;
      -h | --help) usage; exit 0 ;;
      *) usage >&2; exit 64 ;;
    esac
    shift
  done
  [[ -f $BUILD/CMakeCache.txt ]] || fail "$BUILD holds no build; run make bundle"
  name=rankwise-$(cached CMAKE_PROJECT_VERSION)-linux-x86_64
  archive=$output/$name.tar.gz
  work=$(mktemp -d)
  # shellcheck disable=SC2064 # the folder of this call
  trap "rm -rf '$work'" EXIT
  mkdir -p "$output"
  add_program "$work/$name"
  if "$with_mpi"; then add_mpi "$work/$name"; fi
  if "$with_tests"; then add_tests "$work/$name"; fi
  pack "$work" "$name" "$archive"
  size=$(stat --format=%s "$archive")
  ((size < LIMIT)) || fail "$archive has $size bytes; at most $LIMIT are wanted"
  echo "bundle: $archive, $(numfmt --to=iec-i --suffix=B --format=%.1f "$size"), $(du -sh "$work/$name" | cut -f 1)B unpacked"
}

main "$@"
