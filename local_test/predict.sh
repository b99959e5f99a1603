#!/usr/bin/env bash
# Sends an image to the endpoint that serve_local.sh started, and prints its answer.
#
#   predict.sh IMAGE_FILE [CONTENT_TYPE]      application/x-image unless named; PORT=… as for serve_local.sh
#   ACCEPT='application/json;annotation=1' predict.sh IMAGE_FILE
set -euo pipefail
[ $# -gt 0 ] || { sed -n '2,5s/^# \{0,1\}//p' "$0"; exit 2; }
[ -f "$1" ] || { echo "predict.sh: there is no file $1" >&2; exit 2; }
curl --silent --show-error --fail-with-body --data-binary "@$1" -H "Content-Type: ${2:-application/x-image}" \
    -H "Accept: ${ACCEPT:-application/json}" "http://127.0.0.1:${PORT:-8080}/invocations"
