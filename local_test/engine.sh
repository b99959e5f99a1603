# Sourced by the scripts beside it. Sets `engine` to docker or podman, whichever answers (ENGINE names one), and
# `gpus` to the arguments that give a container this machine's GPUs, if there are any.

engine=${ENGINE:-}
if [ -z "$engine" ]; then
    for candidate in docker podman; do
        if "$candidate" info >/dev/null 2>&1; then engine=$candidate && break; fi
    done
fi
if [ -z "$engine" ]; then
    echo "${0##*/}: neither docker nor podman answers here: install one, and start it" >&2
    exit 2
fi

gpus=()
if nvidia-smi -L >/dev/null 2>&1; then
    case $("$engine" --version) in
    *podman*) gpus=(--device nvidia.com/gpu=all) ;;
    *) gpus=(--gpus all) ;;
    esac
fi
