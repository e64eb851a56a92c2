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
    # Without it the same torch multiplies matrices twenty times slower.
    ls /usr/lib/*/openblas-*/libblas.so.3 >/dev/null 2>&1 || missing="$missing libopenblas0"
    /usr/bin/python3 -c 'import ensurepip' 2>/dev/null || missing="$missing python3-venv"
fi

install() { # install PACKAGE...
    if [ "$(id -u)" -ne 0 ] || ! command -v apt-get >/dev/null 2>&1; then
        echo "Tests that need $* are skipped: as root, make test installs them (apt-get install $*)." >&2
        return
    fi
    echo "Installing for the wider test tiers: $*" >&2
    export DEBIAN_FRONTEND=noninteractive
    # A package must not start its daemon here: the tests start their own.
    if [ ! -e /usr/sbin/policy-rc.d ]; then
        printf '#!/bin/sh\nexit 101\n' >/usr/sbin/policy-rc.d
        chmod +x /usr/sbin/policy-rc.d
        trap 'rm -f /usr/sbin/policy-rc.d' EXIT
    fi
    # Another program that installs is waited for.
    wait="-o DPkg::Lock::Timeout=300"
    if ! told=$({ apt-get $wait -qq update && apt-get $wait -qq install -y --no-install-recommends "$@"; } 2>&1); then
        printf '%s\n' "$told" | tail -n 3 >&2
        echo "apt-get could not install $*: the tests that need them are skipped." >&2
    fi
}

# shellcheck disable=SC2086 # a list of words
[ -z "$missing" ] || install $missing
[ ! -x .venv/bin/python ] || sh tests/notebooks/kernels.sh .venv/bin/python
