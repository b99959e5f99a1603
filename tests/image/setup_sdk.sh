#!/usr/bin/env bash
# Sets up .venv-sdk3 and .venv-sdk with versions 3 and 2 of the SageMaker Python SDK, whose pins are not the image's, for
# tests/image/test_sdk.py and tests/examples/test_notebook.py.
set -euo pipefail
cd "$(dirname "$0")/../.."
for environment in .venv-sdk3 .venv-sdk; do
    requirements=tests/image/${environment#.venv-}_requirements.txt
    [ "$(cat $environment/made-from 2>/dev/null)" = "$(cksum "$requirements")" ] && continue
    if command -v uv >/dev/null; then
        uv venv --quiet --clear --python 3.11 $environment
        uv pip install --quiet --python $environment -r "$requirements"
    else
        python3.11 -m venv --clear $environment
        $environment/bin/python -m pip install --quiet --disable-pip-version-check -r "$requirements"
    fi
    cksum "$requirements" >$environment/made-from
done
