#!/usr/bin/env bash
# Sets up the environment with the test tools, then checks and tests everything.
set -euo pipefail
cd "$(dirname "$0")/.."
bash local_test/setup.sh test
export PATH=$PWD/.venv/bin:$PATH
ruff check .
ruff format --check .
mypy
python -m pytest -q "$@"
