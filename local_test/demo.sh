#!/usr/bin/env bash
# The whole way on this machine, as SageMaker goes it: images in, a detector trained, its archive packed and unpacked,
# an endpoint that answers, and a picture of what it found.
#
#   demo.sh                on aerial photographs that it makes itself
#   demo.sh --data DIR     on yours: DIR/train.json (COCO), DIR/val.json if there is one, and DIR/images/
#   demo.sh name=value …   with other hyperparameters; see docs/hyperparameters.md
#
# PORT (8080) is the endpoint's, RUN (local_test/run) the folder for all that it makes.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
root=$(dirname "$here")
run=${RUN:-$here/run}
port=${PORT:-8080}

data=
hyperparameters=()
while [ $# -gt 0 ]; do
    case $1 in
    --data)
        [ -d "${2:-}" ] || { echo "demo.sh: --data needs a folder; '${2:-}' is none" >&2; exit 2; }
        data=$(cd "$2" && pwd)
        shift 2
        ;;
    *=*) hyperparameters+=("$1"); shift ;;
    *) sed -n '2,9s/^# \{0,1\}//p' "$0"; exit 2 ;;
    esac
done

mkdir -p "$run"
start=$SECONDS
step() { printf '\n[%3d s] %s\n' $((SECONDS - start)) "$*"; }

step "environment"
bash "$here/setup.sh"
# The root first: sagemaker-training installs a `train` of its own.
export PATH=$root:$root/.venv/bin:$PATH PYTHONPATH=$root/container PYTHONUNBUFFERED=1

if [ -z "$data" ]; then
    data=$run/data
    if [ ! -f "$data/val.json" ]; then
        step "making a data set in $data"
        rm -rf "$data"
        python "$here/make_demo_data.py" "$data" --width 800 --height 600
    fi
    hyperparameters=(image_size=384 ${hyperparameters[@]+"${hyperparameters[@]}"})
fi

step "laying out $run/opt_ml as SageMaker lays out /opt/ml"
python "$here/demo_job.py" lay-out "$data" "$run/opt_ml" ${hyperparameters[@]+"${hyperparameters[@]}"}
cat "$run/opt_ml/input/config/hyperparameters.json"; echo

step "train"
SAGEMAKER_BASE_DIR=$run/opt_ml train

step "packing and unpacking model.tar.gz, as the platform does"
tar -czf "$run/model.tar.gz" -C "$run/opt_ml/model" .
rm -rf "$run/endpoint"
mkdir -p "$run/endpoint/model"
tar -xzf "$run/model.tar.gz" -C "$run/endpoint/model"
ls -l "$run/model.tar.gz"

step "serve, on port $port"
SAGEMAKER_BASE_DIR=$run/endpoint SAGEMAKER_BIND_TO_PORT=$port serve >"$run/serve.log" 2>&1 &
server=$!
trap 'kill $server 2>/dev/null || true' EXIT
python "$here/wait_for_ping.py" "http://127.0.0.1:$port" $server || { cat "$run/serve.log" >&2; exit 1; }

step "the validation images to /invocations: is its mAP the one that train logged?"
python "$here/demo_job.py" compare "$run/opt_ml" "http://127.0.0.1:$port"

step "an image to /invocations, as application/x-image"
image=$(python "$here/demo_job.py" busiest "$run/opt_ml")
python -m tilewise predict "$image" --endpoint "http://127.0.0.1:$port" --model "$run/endpoint/model" --out "$run" --threshold 0.25

kill -TERM $server
wait $server
trap - EXIT
step "done. The picture: $run/$(basename "${image%.*}")-detections.png   The model: $run/model.tar.gz"
