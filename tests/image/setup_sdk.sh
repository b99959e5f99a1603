#!/usr/bin/env bash
# Sets up .venv-sdk with the SageMaker Python SDK, whose pins are not the image's, for tests/image/test_sdk.py.
set -euo pipefail
cd "$(dirname "$0")/../.."
requirements=tests/image/sdk_requirements.txt
[ "$(cat .venv-sdk/made-from 2>/dev/null)" = "$(cksum $requirements)" ] && exit 0
if command -v uv >/dev/null; then
    uv venv --quiet --clear --python 3.11 .venv-sdk
    uv pip install --quiet --python .venv-sdk -r $requirements
else
    python3.11 -m venv --clear .venv-sdk
    .venv-sdk/bin/python -m pip install --quiet --disable-pip-version-check -r $requirements
fi
cksum $requirements >.venv-sdk/made-from
