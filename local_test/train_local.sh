#!/usr/bin/env bash
# Trains in the image as SageMaker does, with local_test/test_dir as /opt/ml; the model is then in test_dir/model.
#
#   train_local.sh IMAGE                   the first time with data that the image makes itself; change what lies there
#   train_local.sh --pipe IMAGE            the same job in Pipe mode: another container writes the channels into FIFOs
#   TEST_DIR=DIR train_local.sh IMAGE      with another folder as /opt/ml; lay_out.py makes one from your data
#
# What follows IMAGE goes to `docker run`: train_local.sh tilewise --network none --shm-size 64m
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
pipe=
[ "${1:-}" = --pipe ] && pipe=1 && shift
[ $# -gt 0 ] || { sed -n '2,8s/^# \{0,1\}//p' "$0"; exit 2; }
image=$1
shift
. "$here/engine.sh"

test_dir=${TEST_DIR:-$here/test_dir}
mkdir -p "$test_dir"
test_dir=$(cd "$test_dir" && pwd)
container() { "$engine" run --rm --no-healthcheck -v "$here:/local_test:ro" -v "$test_dir:/opt/ml" "$@"; }
[ -e "$test_dir/input/config" ] || container "$image" python /local_test/make_test_dir.py /opt/ml

# A job begins with empty folders. In the image, because what an earlier one left may belong to root.
container "$image" sh -c 'mkdir -p /opt/ml/model /opt/ml/output && find /opt/ml/model /opt/ml/output -mindepth 1 -delete'

volumes=(-v "$test_dir:/opt/ml")
if [ -n "$pipe" ]; then
    container "$image" python /local_test/pipe_mode.py lay-out /opt/ml /opt/ml/pipe
    writer=tilewise-pipe-$$
    container --detach --name "$writer" "$image" python /local_test/pipe_mode.py feed /opt/ml/pipe >/dev/null
    trap '"$engine" rm -f "$writer" >/dev/null 2>&1 || true' EXIT
    volumes+=(-v "$test_dir/pipe/input:/opt/ml/input")
fi

terminal=()
[ -t 0 ] && terminal=(-it)
"$engine" run --rm --no-healthcheck ${terminal[@]+"${terminal[@]}"} ${gpus[@]+"${gpus[@]}"} "${volumes[@]}" "$@" "$image" train
echo "the model is in $test_dir/model"
