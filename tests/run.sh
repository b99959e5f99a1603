#!/usr/bin/env bash
# Sets up the environment with the test tools, then checks and tests everything.
set -euo pipefail
cd "$(dirname "$0")/.."
bash local_test/setup.sh test
export PATH=$PWD/.venv/bin:$PATH
ruff check .
ruff format --check .
mypy
# A process on each core, each computing with one thread: the sums of two threads would have to wait for each other.
OMP_NUM_THREADS=1 python -m pytest -q -n auto --dist loadfile "$@"
