#!/usr/bin/env bash
# Serves the model in local_test/test_dir/model, which train_local.sh left there, until Ctrl-C.
#
#   serve_local.sh IMAGE                   on port 8080; PORT=… is another
#   TEST_DIR=DIR serve_local.sh IMAGE      the model in DIR/model
#
# What follows IMAGE goes to `docker run`: serve_local.sh tilewise -e SAGEMAKER_MODEL_SERVER_WORKERS=2
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
[ $# -gt 0 ] || { sed -n '2,7s/^# \{0,1\}//p' "$0"; exit 2; }
image=$1
shift
. "$here/engine.sh"

test_dir=${TEST_DIR:-$here/test_dir}
if [ ! -e "$test_dir/model/model.json" ]; then
    echo "serve_local.sh: there is no model in $test_dir/model: run train_local.sh $image first" >&2
    exit 2
fi
test_dir=$(cd "$test_dir" && pwd)
terminal=()
[ -t 0 ] && terminal=(-it)
exec "$engine" run --rm --no-healthcheck ${terminal[@]+"${terminal[@]}"} ${gpus[@]+"${gpus[@]}"} -p "127.0.0.1:${PORT:-8080}:8080" \
    -v "$test_dir/model:/opt/ml/model:ro" "$@" "$image" serve
