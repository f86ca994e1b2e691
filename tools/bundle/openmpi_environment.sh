# shellcheck shell=sh disable=SC2154
# Read by the scripts of a bundle, with $here its folder: Open MPI, PMIx and hwloc take nothing from where Debian has them.
export OPAL_PREFIX="$here/openmpi"
export OPAL_SYSCONFDIR="$OPAL_PREFIX/etc"
export PMIX_LIBDIR="$OPAL_PREFIX/lib"
export HWLOC_PLUGINS_PATH="$OPAL_PREFIX/lib/hwloc"
case :$LD_LIBRARY_PATH: in
  *":$OPAL_PREFIX/lib:"*) ;;
  *) export LD_LIBRARY_PATH="$OPAL_PREFIX/lib${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}" ;;
esac
