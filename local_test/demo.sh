#!/usr/bin/env bash
# The whole way on this machine, as SageMaker goes it: images in, a detector trained, its archive packed and unpacked,
# an endpoint that answers, and a picture of what it found.
#
#   demo.sh                on aerial photographs that it makes itself
#   demo.sh --data DIR     on yours: DIR/train.json (COCO), DIR/val.json if there is one, and DIR/images/
#   demo.sh --docker       all of it in the image, with docker or podman and nothing else
#   demo.sh name=value …   with other hyperparameters; see docs/hyperparameters.md
#
# IMAGE (tilewise) is the image of --docker, which is built where it is not there.
# PORT (8080) is the endpoint's, RUN (local_test/run) the folder for all that it makes.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
root=$(dirname "$here")
run=${RUN:-$here/run}
port=${PORT:-8080}

data=
docker=
hyperparameters=()
while [ $# -gt 0 ]; do
    case $1 in
    --data)
        [ -d "${2:-}" ] || { echo "demo.sh: --data needs a folder; '${2:-}' is none" >&2; exit 2; }
        data=$(cd "$2" && pwd)
        shift 2
        ;;
    --docker) docker=1; shift ;;
    *=*) hyperparameters+=("$1"); shift ;;
    *) sed -n '2,11s/^# \{0,1\}//p' "$0"; exit 2 ;;
    esac
done

mkdir -p "$run"
start=$SECONDS
step() { printf '\n[%3d s] %s\n' $((SECONDS - start)) "$*"; }

step "environment"
if [ -n "$docker" ]; then
    . "$here/engine.sh"
    tag=${IMAGE:-tilewise}
    server=tilewise-demo-$$
    "$engine" image inspect "$tag" >/dev/null 2>&1 || "$engine" build -t "$tag" "$root"
    # Folders have the same names inside, so that every command below is the same with and without the image.
    container() { "$engine" run --rm --no-healthcheck ${gpus[@]+"${gpus[@]}"} -v "$here:$here:ro" -v "$run:$run" ${data:+-v "$data:$data:ro"} "$@"; }
    beside=()
    python() { container ${beside[@]+"${beside[@]}"} "$tag" python "$@"; }
    own() { container "$tag" chown -R --reference="$run" "$run"; }
    train_job() { container -v "$run/opt_ml:/opt/ml" "$tag" train; }
    start_server() {
        port=8080 # of a network of its own, which what asks the endpoint shares
        container --detach --name "$server" -v "$run/endpoint/model:/opt/ml/model:ro" "$tag" serve >/dev/null
        beside=(--network "container:$server" --pid "container:$server")
        process=1
    }
    server_log() { "$engine" logs "$server"; }
    stop_server() { "$engine" stop -t 30 "$server" >/dev/null && beside=(); }
    abandon_server() { "$engine" rm -f "$server" >/dev/null 2>&1 || true; }
else
    bash "$here/setup.sh"
    # The root first: sagemaker-training installs a `train` of its own.
    export PATH=$root:$root/.venv/bin:$PATH PYTHONPATH=$root/container PYTHONUNBUFFERED=1
    own() { :; }
    train_job() { SAGEMAKER_BASE_DIR=$run/opt_ml train; }
    start_server() {
        SAGEMAKER_BASE_DIR=$run/endpoint SAGEMAKER_BIND_TO_PORT=$port serve >"$run/serve.log" 2>&1 &
        process=$!
    }
    server_log() { cat "$run/serve.log"; }
    stop_server() { kill -TERM "$process" && wait "$process"; }
    abandon_server() { kill "$process" 2>/dev/null || true; }
fi

if [ -z "$data" ]; then
    data=$run/data
    if [ ! -f "$data/val.json" ]; then
        step "making a data set in $data"
        rm -rf "$data"
        python "$here/make_demo_data.py" "$data" --width 800 --height 600
    fi
fi

step "laying out $run/opt_ml as SageMaker lays out /opt/ml"
python "$here/demo_job.py" lay-out "$data" "$run/opt_ml" ${hyperparameters[@]+"${hyperparameters[@]}"}
cat "$run/opt_ml/input/config/hyperparameters.json"; echo

step "train"
train_job
own

step "packing and unpacking model.tar.gz, as the platform does"
tar -czf "$run/model.tar.gz" -C "$run/opt_ml/model" .
rm -rf "$run/endpoint"
mkdir -p "$run/endpoint/model"
tar -xzf "$run/model.tar.gz" -C "$run/endpoint/model"
ls -l "$run/model.tar.gz"

step "serve, on port $port"
start_server
trap abandon_server EXIT
python "$here/wait_for_ping.py" "http://127.0.0.1:$port" "$process" || { server_log >&2; exit 1; }

step "the validation images to /invocations: is its mAP the one that train logged?"
python "$here/demo_job.py" compare "$run/opt_ml" "http://127.0.0.1:$port"

step "an image to /invocations, as application/x-image"
image=$(python "$here/demo_job.py" busiest "$run/opt_ml")
python -m tilewise predict "$image" --endpoint "http://127.0.0.1:$port" --model "$run/endpoint/model" --out "$run" --threshold 0.25

stop_server
own
trap - EXIT
step "done. The picture: $run/$(basename "${image%.*}")-detections.png   The model: $run/model.tar.gz"
