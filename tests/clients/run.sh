#!/usr/bin/env bash
# Runs jobs of every kind through the SageMaker Python SDK, versions 3 and 2, in Local Mode with the image, and both notebooks
# against moto; writes what they printed to tests/clients/output.md. Some twenty minutes on two cores: no part of
# .ci/run, which runs one job of each version.
#
#   bash tests/clients/run.sh [NAME …]    those jobs; without a name all. What has run with this image is not run again
#
# IMAGE=…: another than tests/image/build.sh makes. WORK=…: where jobs, models and answers are kept.
set -euo pipefail
cd "$(dirname "$0")/../.."
export CONTAINERS_CONF=${CONTAINERS_CONF:-$PWD/tests/image/containers.conf}
[ -x .venv/bin/python ] || bash local_test/setup.sh test
[ -n "${IMAGE:-}" ] || bash tests/image/build.sh
bash tests/image/setup_sdk.sh
work=${WORK:-${TMPDIR:-/tmp}/tilewise-clients}
mkdir -p "$work"
if [ -z "${DOCKER_HOST:-}" ] && command -v podman >/dev/null; then
    export DOCKER_HOST=unix://$work/podman.sock
    podman system service --time=0 "$DOCKER_HOST" &
    trap 'kill %1' EXIT
fi
PYTHONPATH=container:tests .venv/bin/python tests/clients/run.py "${IMAGE:-localhost/tilewise-test}" "$work" "$@"
