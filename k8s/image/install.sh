#!/bin/sh
# In the image: what Debian has of what runs there, and the user that owns the processes.
set -eu
export DEBIAN_FRONTEND=noninteractive
apt-get update
apt-get install --yes --no-install-recommends libgomp1 libstdc++6 openmpi-bin openssh-client openssh-server
rm -rf /var/lib/apt/lists/* /etc/ssh/ssh_host_* # a key that all pods shared would prove nothing
useradd --uid 1000 --user-group --create-home rankwise
