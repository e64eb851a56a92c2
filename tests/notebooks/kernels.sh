#!/bin/sh
# The Python environments that notebooks are executed in besides the tests' own, made once and kept in .cache/:
#   torch-node    Debian's PyTorch, a CPU build of 0.3 GB (that of PyPI is 5 GB of CUDA), on the system's Python
#   library-node  the tests' own environment, and JAX, pandas and XGBoost above it
# One that cannot be made within $KERNEL_SECONDS is left out, and its tests are skipped: pytest's summary says why.
#   sh tests/notebooks/kernels.sh [PYTHON]
set -eu
cd "$(dirname "$0")/../.."
python=${1:-.venv/bin/python}
seconds=${KERNEL_SECONDS:-300}
mkdir -p .cache

fill_node() { # fill_node FOLDER PYTHON REQUIREMENT...
    folder=$1 base=$2
    shift 2
    rm -rf "$folder"
    "$base" -m venv $system "$folder" || return
    if [ -n "$seen" ]; then
        echo "$seen" >"$("$folder/bin/python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')/seen.pth"
    fi
    timeout "$seconds" "$folder/bin/python" -m pip install --quiet --disable-pip-version-check "$@"
}

make_node() { # make_node NAME PYTHON REQUIREMENT...: it also sees the packages of the folder $seen
    folder=.cache/$1 made="$("$2" -V) $*"
    shift
    exec 9>"$folder.lock"
    flock 9
    if [ "$(cat "$folder/ready" 2>/dev/null)" != "$made" ]; then
        echo "Making $folder (once, a minute or two)" >&2
        if fill_node "$folder" "$@" >&2; then
            echo "$made" >"$folder/ready"
        else
            echo "$folder could not be made within $seconds s: the tests that need it are skipped." >&2
        fi
    fi
    exec 9>&-
}

if [ -d /usr/lib/python3/dist-packages/torch ] && /usr/bin/python3 -c 'import ensurepip' 2>/dev/null; then
    # NumPy stays the one that this torch was built for.
    numpy=$(/usr/bin/python3 -c 'from importlib.metadata import version; print(version("numpy"))')
    system=--system-site-packages seen=""
    make_node torch-node /usr/bin/python3 'ipykernel>=6.29' matplotlib "numpy==$numpy"
fi

system="" seen=$("$python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')
make_node library-node "$python" jax pandas xgboost-cpu
