#!/bin/sh
# Makes the environment $1 if there is none, and installs this checkout with the requirement $2
# (. or .[dev]) in it. Called by make, which calls it only where something has changed.
# PYTHON=...: the interpreter; TORCH_INDEX=URL: the package index that torch is taken from.
set -eu
venv=$1
what=$2

suitable() {
    "$1" -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))' 2>/dev/null
}

if ! [ -x "$venv/bin/python" ] || ! "$venv/bin/python" -m pip --version >/dev/null 2>&1; then
    found=
    for python in ${PYTHON:-python3 python3.14 python3.13 python3.12 python3.11 python}; do
        if suitable "$python"; then
            found=$python
            break
        fi
    done
    if [ -z "$found" ]; then
        echo "make: no Python 3.11 or newer with venv was found (looked for: ${PYTHON:-python3, python3.11 to 3.14});" >&2
        echo "install one (Debian and Ubuntu: apt-get install python3 python3-venv), or name one: make PYTHON=/path/to/python" >&2
        exit 2
    fi
    echo "making $venv with $("$found" --version)"
    rm -rf "$venv"
    "$found" -m venv "$venv"
fi

pip() {
    "$venv/bin/python" -m pip --disable-pip-version-check "$@"
}

# Someone who watches sees what is downloaded; a log is spared that.
quiet=
[ -t 1 ] || quiet=--quiet

if [ -n "${TORCH_INDEX:-}" ]; then
    pip install $quiet --index-url "$TORCH_INDEX" -c constraints.txt torch
elif ! "$venv/bin/python" -c 'import torch' 2>/dev/null && ! [ -e /dev/nvidiactl ]; then
    if pip install --dry-run --quiet --report - -c constraints.txt torch 2>/dev/null |
        grep -q '"name": "nvidia-'; then
        echo "no GPU here, but pip is about to download CUDA packages of several GB: to avoid that, stop and run make again with TORCH_INDEX= PyTorch's CPU index (see PyTorch's install page)"
    fi
fi

echo "installing (a minute or two the first time)"
pip install $quiet -c constraints.txt -e "$what"
touch "$venv/.installed"
[ "$what" = . ] || touch "$venv/.installed-dev"
