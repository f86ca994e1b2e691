#!/bin/sh
# The mpirun of this bundle.
here=$(dirname "$(readlink -f "$0")")
# shellcheck source=/dev/null
. "$here/openmpi/environment"
exec "$here/openmpi/bin/orterun" "$@"
