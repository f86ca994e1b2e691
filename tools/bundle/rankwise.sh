#!/bin/sh
# Starts the program of this bundle with the libraries of this host's PyTorch. USE.txt says what the host must have.
# Under another name, by a link, the program of that name in bin/.
here=$(dirname "$(readlink -f "$0")")
program=$here/bin/$(basename "$0")
[ -x "$program" ] || program=$here/bin/rankwise
linked_with=@TORCH@

fail() {
  echo "rankwise: $*" >&2
  exit 69
}

# Beside this script, as in a container's image, or of python3: found, not imported, as an import takes seconds and
# hundreds of MB in every rank.
find_torch() {
  if [ -d "$here/torch" ]; then
    echo "$here/torch"
    return
  fi
  python3 -c 'import importlib.util as u; print(u.find_spec("torch").submodule_search_locations[0])' 2>/dev/null
}

torch=${TORCH_DIR:-$(find_torch)}
[ -f "$torch/version.py" ] || fail "no PyTorch in ${torch:-the packages of python3}:" \
  "pip install torch==$linked_with, or set TORCH_DIR to the folder site-packages/torch of another Python"
version=$(sed -n "s/^__version__ = '\([0-9.]*\).*/\1/p" "$torch/version.py")
[ "$version" = "$linked_with" ] || fail "$torch is of version $version; this program was linked with $linked_with"

libraries=$here/lib:$torch/lib
for folder in "$torch"/../nvidia/*/lib; do
  [ ! -d "$folder" ] || libraries=$libraries:$folder
done
# shellcheck source=/dev/null # there in a bundle with Open MPI
[ ! -d "$here/openmpi" ] || . "$here/openmpi/environment"
LD_LIBRARY_PATH=$libraries${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH} exec "$program" "$@"
