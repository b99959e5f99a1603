#!/usr/bin/env bash
# Sets up the virtual environment .venv: `setup.sh` to train and serve, `setup.sh test` with the test tools too.
# Uses uv where it is installed, else venv and pip. Does nothing where the environment is up to date.
set -euo pipefail
cd "$(dirname "$0")/.."

requirements=requirements.txt
[ "${1:-}" = test ] && requirements=tests/requirements.txt

# The file that the environment was made from, and its checksum; the tests' holds all that the other does.
up_to_date() { [ -x .venv/bin/python ] && [ "$(cat .venv/made-from 2>/dev/null)" = "$(cksum "$1")" ]; }
if up_to_date "$requirements" || up_to_date tests/requirements.txt; then exit 0; fi

if ! command -v cc >/dev/null; then
    echo "setup.sh: there is no C compiler, and sagemaker-training has a C part: install gcc (Debian: apt-get install gcc python3.11-dev)" >&2
    exit 2
fi
echo "setting up .venv from $requirements (about 7 GB with PyTorch's CUDA libraries; once)"
if command -v uv >/dev/null; then
    [ -x .venv/bin/python ] || uv venv --quiet --python 3.11 .venv
    uv pip install --quiet --python .venv -r "$requirements"
else
    python=$(command -v python3.11 || true)
    if [ -z "$python" ]; then
        echo "setup.sh: python3.11 is not installed (nor uv, which could bring it)" >&2
        exit 2
    fi
    [ -x .venv/bin/python ] || "$python" -m venv .venv
    .venv/bin/python -m pip install --quiet --disable-pip-version-check -r "$requirements"
fi
cksum "$requirements" >.venv/made-from
