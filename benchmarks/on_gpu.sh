#!/usr/bin/env bash
# Training on a GPU: bash benchmarks/on_gpu.sh speed|accuracy DATA OUT
#
# speed: every model's training beside its bare step, some in float32 and compiled too, and torchvision's reference
# loop. accuracy: four models from scratch over three seeds; with tiles where DATA's folder is named nuclei.
# DATA holds train.json, val.json and images/; OUT gets a file of figures for each command, and its log.
# BATCH, STEPS and EPOCHS may be given.
set -uo pipefail
cd "$(dirname "$0")/.."
[ $# = 3 ] || { sed -n 's/^# //p' "$0" | head -1 >&2; exit 2; }
what=$1 data=$(realpath "$2") out=$(realpath -m "$3")
python=${PYTHON:-python}
batch=${BATCH:-16} steps=${STEPS:-40} epochs=${EPOCHS:-60}
failed=0
mkdir -p "$out"

figures() { # NAME COMMAND…: its figures and its log; a command that fails is named, and the next one runs
    local name=$1 start=$SECONDS
    shift
    "$python" "$@" >"$out/$name.json" 2>"$out/$name.log" || { failed=1; echo "FAILED: $name, see $out/$name.log"; }
    echo "$name: $((SECONDS - start)) s"
}

case $what in
speed)
    some="yolox_s ssd_resnet50 gfl_resnet50_fpn fasterrcnn_resnet50_fpn"
    turns="--data $data --size 640 --batch $batch --steps $steps --rounds 3"
    figures models benchmarks/models.py $turns
    figures fp32 benchmarks/models.py $some precision=fp32 $turns
    # the others take views of many sizes, which compile=1 refuses
    figures compiled benchmarks/models.py yolox_s ssd_resnet50 compile=1 $turns
    figures reference_loop benchmarks/reference_loop.py "$data" --batch "$batch" --batches "$steps" --rounds 3 --warm-up 10
    ;;
accuracy)
    tiles=$([[ $(basename "$data") == nuclei ]] && echo tile_grid_size=3x2)
    for model in yolox_tiny ssd_resnet50 gfl_resnet18_fpn fasterrcnn_resnet18_fpn; do
        figures "$model" benchmarks/from_scratch.py "$data" model_name=$model training_batch_size="$batch" \
            number_of_epochs="$epochs" warmup_cosine_lr_warmup_epochs=3 evaluation_frequency="$epochs" $tiles
    done
    ;;
*)
    echo "speed or accuracy, not $what" >&2
    exit 1
    ;;
esac
exit "$failed"
