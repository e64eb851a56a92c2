#!/bin/sh
# The programs that the wider test tiers need. As root on Debian or Ubuntu the missing ones are installed; otherwise
# their tests are skipped, and pytest's summary says which and why.
set -eu

missing=""
need() { # need PACKAGE PROGRAM...: the package is missing when none of the programs is there
    package=$1
    shift
    for program in "$@"; do
        if command -v "$program" >/dev/null 2>&1 || [ -x "/usr/sbin/$program" ]; then return 0; fi
    done
    missing="$missing $package"
}

need openssh-server sshd
need iproute2 ip
need prometheus promtool
need chromium chromium chromium-browser google-chrome
[ -d /usr/lib/postgresql ] || need postgresql postgres
need gcc gcc cc
need bubblewrap bwrap
need uidmap newuidmap
[ -d /usr/share/jupyter/kernels/ir ] || missing="$missing r-cran-irkernel"

# The notebooks are also executed with Debian's torch, in an environment made from the system's Python.
if [ -x /usr/bin/python3 ] && [ -e /etc/debian_version ]; then
    [ -d /usr/lib/python3/dist-packages/torch ] || missing="$missing python3-torch"
    /usr/bin/python3 -c 'import ensurepip' 2>/dev/null || missing="$missing python3-venv"
fi

[ -n "$missing" ] || exit 0
if [ "$(id -u)" -ne 0 ] || ! command -v apt-get >/dev/null 2>&1; then
    echo "Tests that need$missing are skipped: as root, make test installs them (apt-get install$missing)." >&2
    exit 0
fi
echo "Installing for the wider test tiers:$missing" >&2
export DEBIAN_FRONTEND=noninteractive
# A package must not start its daemon here: the tests start their own.
if [ ! -e /usr/sbin/policy-rc.d ]; then
    printf '#!/bin/sh\nexit 101\n' >/usr/sbin/policy-rc.d
    chmod +x /usr/sbin/policy-rc.d
    trap 'rm -f /usr/sbin/policy-rc.d' EXIT
fi
# shellcheck disable=SC2086 # a list of words
if ! { apt-get -qq update && apt-get -qq install -y --no-install-recommends $missing; } >/dev/null 2>&1; then
    echo "apt-get could not install$missing: the tests that need them are skipped." >&2
fi
