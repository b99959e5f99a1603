#!/usr/bin/env bash
# Trains in the image as SageMaker does, with local_test/test_dir as /opt/ml; the model is then in test_dir/model.
#
#   train_local.sh IMAGE                   the first time with data that the image makes itself; change what lies there
#   TEST_DIR=DIR train_local.sh IMAGE      with another folder as /opt/ml; lay_out.py makes one from your data
#
# What follows IMAGE goes to `docker run`: train_local.sh tilewise --network none --shm-size 64m
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
[ $# -gt 0 ] || { sed -n '2,7s/^# \{0,1\}//p' "$0"; exit 2; }
image=$1
shift
. "$here/engine.sh"

test_dir=${TEST_DIR:-$here/test_dir}
if [ ! -e "$test_dir/input/config" ]; then
    mkdir -p "$test_dir"
    "$engine" run --rm --no-healthcheck -v "$here:/local_test:ro" -v "$test_dir:/opt/ml" "$image" \
        python /local_test/make_test_dir.py /opt/ml
fi
test_dir=$(cd "$test_dir" && pwd)

# A job begins with empty folders. In the image, because what an earlier one left may belong to root.
"$engine" run --rm --no-healthcheck -v "$test_dir:/opt/ml" "$image" \
    sh -c 'mkdir -p /opt/ml/model /opt/ml/output && find /opt/ml/model /opt/ml/output -mindepth 1 -delete'

terminal=()
[ -t 0 ] && terminal=(-it)
"$engine" run --rm --no-healthcheck "${terminal[@]}" "${gpus[@]}" -v "$test_dir:/opt/ml" "$@" "$image" train
echo "the model is in $test_dir/model"
