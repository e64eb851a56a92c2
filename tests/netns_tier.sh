#!/bin/sh
# Runs a Python command as root of a user namespace with a network of its own, where hosts can be made without root:
#   sh tests/netns_tier.sh .venv/bin/python -m pytest -m netns
# Needs util-linux' unshare, newuidmap (package uidmap) and a range for this account in /etc/subuid. Where these are
# missing it says so and ends with status 0: the tier is skipped, not failed.
set -eu

skip() {
    echo "netns: skipped: $1" >&2
    exit 0
}

[ "$(id -u)" != 0 ] || exit 0 # root has run these tests already
PATH="$PATH:/usr/sbin:/sbin"
for program in unshare newuidmap ip nsenter sshd; do
    command -v "$program" >/dev/null || skip "$program is not installed (apt-get install util-linux uidmap iproute2 openssh-server)"
done
enter="unshare --user --map-root-user --map-auto --net --mount --pid --fork --kill-child --mount-proc"
$enter true 2>/dev/null || skip "this account may not make user namespaces, or has no range in /etc/subuid"
# The namespace has no way out, so the proxy is installed before; the other tiers mostly have done so.
FARM_TEST_CACHE="${TMPDIR:-/tmp}/agentfarm-tests-$(id -u)"
mkdir -p -m 700 "$FARM_TEST_CACHE"
"$1" -m jupyterhub_agentfarm.demo.proxy --dir "$FARM_TEST_CACHE" >/dev/null
export FARM_TEST_CACHE PATH
exec $enter sh -c 'mount -t tmpfs tmpfs /run && ip link set lo up && exec "$@"' sh "$@"
