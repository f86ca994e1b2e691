#!/bin/sh
# The first process of a worker: sshd as an ordinary user on a read-only root, under `rankwise launch --worker`.
set -eu
key=$(mktemp -d /tmp/sshd.XXXXXX)/host_key
ssh-keygen -q -t ed25519 -N '' -f "$key"
exec rankwise launch --worker --grace "${RANKWISE_GRACE:-0}" \
  /usr/sbin/sshd -De -f /etc/rankwise/sshd_config -o "HostKey=$key"
