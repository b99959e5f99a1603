# One image that trains and serves, on CPU and GPU. Built by docker (with or without BuildKit), podman and kaniko:
#
#   docker build -t tilewise .
#   docker build -t tilewise-cpu --target cpu .     serves only, without a GPU and without PyTorch: a tenth of the size
#
#   --build-arg BASE_IMAGE=…    any Debian with Python 3.11 and its venv module
#   --build-arg WEIGHTS=…       what to bake in below weights/: a folder, or one file; see weights/README.md
#   --build-arg FETCH_WEIGHTS=… what to download there, where not those of the models that jobs train by default:
#                               strict, none, all, or models' names; see weights/README.md
#   --build-arg REVISION=$(git rev-parse HEAD)

ARG BASE_IMAGE=python:3.11-slim-bookworm


# The pins, cut into layers, so that those of CUDA and PyTorch stay when another package changes. They are installed
# where they are to lie and not copied from another stage: to know that a copy is unchanged, builders read all of it.
FROM ${BASE_IMAGE} AS pins
COPY requirements.txt docker/install.sh /pins/
# Left out is what only torch.compile uses. It needs a C compiler at run time, and so could not work here.
RUN cd /pins \
    && grep -E '^[a-zA-Z0-9._-]+==' requirements.txt | grep -vE '^(triton|cuda-bindings|cuda-pathfinder)==' >all.txt \
    && grep -E '^nvidia-' all.txt >cuda.txt \
    && grep -E '^(torch|torchvision)==' all.txt >torch.txt \
    && grep -vE '^(nvidia-.*|torch|torchvision)==' all.txt >packages.txt \
    && touch -d @0 *


# sagemaker-training has a part in C: the compiler stays here.
FROM ${BASE_IMAGE} AS packages
# UV_NO_CACHE=0 keeps what was downloaded, for a build with a cache mounted at UV_CACHE_DIR.
ARG UV_NO_CACHE=1
ARG UV_CACHE_DIR=/uv-cache
RUN apt-get update -qq \
    && headers=$(python3 -c 'import os, sysconfig; print(os.path.exists(sysconfig.get_path("include") + "/Python.h"))') \
    && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends \
        gcc libc6-dev $([ "$headers" = True ] || echo python3-dev) >/dev/null \
    && rm -rf /var/lib/apt/lists/*
COPY --from=pins /pins/packages.txt /pins/install.sh /pins/
RUN sh /pins/install.sh /pins/packages.txt


# Endpoints without a GPU: ONNX Runtime runs the graph that a training job leaves beside the weights.
FROM ${BASE_IMAGE} AS cpu

LABEL org.opencontainers.image.title="Tilewise for endpoints without a GPU" \
      org.opencontainers.image.description="Serves detectors of small objects in large images on SageMaker" \
      org.opencontainers.image.licenses="Apache-2.0" \
      com.amazonaws.sagemaker.capabilities.accept-bind-to-port="true" \
      com.amazonaws.sagemaker.capabilities.multi-models="true"

ARG UV_NO_CACHE=1
ARG UV_CACHE_DIR=/uv-cache
COPY serving_requirements.txt docker/install.sh /pins/
RUN sh /pins/install.sh /pins/serving_requirements.txt

ENV PATH=/opt/tilewise:/opt/venv/bin:$PATH \
    PYTHONPATH=/opt/tilewise/container \
    PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    LANG=C.UTF-8

COPY LICENSE serve /opt/tilewise/
COPY container /opt/tilewise/container
RUN chmod -R a+rX /opt/tilewise && python3 -m compileall -q --invalidation-mode checked-hash /opt/tilewise/container

EXPOSE 8080
HEALTHCHECK --interval=30s --timeout=5s --start-period=240s CMD ["/opt/tilewise/container/healthcheck"]

ARG VERSION=0.1.0
ARG REVISION=unknown
LABEL org.opencontainers.image.version=$VERSION org.opencontainers.image.revision=$REVISION

ENTRYPOINT ["/usr/bin/env"]
CMD ["serve"]


FROM ${BASE_IMAGE}

LABEL org.opencontainers.image.title="Tilewise" \
      org.opencontainers.image.description="Trains and serves detectors of small objects in large images on SageMaker" \
      org.opencontainers.image.licenses="Apache-2.0" \
      com.amazonaws.sagemaker.capabilities.accept-bind-to-port="true" \
      com.amazonaws.sagemaker.capabilities.multi-models="true"

ARG UV_NO_CACHE=1
ARG UV_CACHE_DIR=/uv-cache
COPY --from=pins /pins/cuda.txt /pins/install.sh /pins/
RUN sh /pins/install.sh /pins/cuda.txt
COPY --from=pins /pins/torch.txt /pins/
RUN sh /pins/install.sh /pins/torch.txt
COPY --from=packages /opt/venv /opt/venv

# /opt/tilewise first: sagemaker-training installs a `train` of its own. Caches go to /tmp: the root may be read-only.
ENV PATH=/opt/tilewise:/opt/venv/bin:$PATH \
    PYTHONPATH=/opt/tilewise/container \
    PYTHONUNBUFFERED=1 \
    HF_HUB_OFFLINE=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    LANG=C.UTF-8 \
    XDG_CACHE_HOME=/tmp/cache \
    MPLCONFIGDIR=/tmp/cache/matplotlib \
    CUDA_CACHE_PATH=/tmp/cache/cuda \
    NVIDIA_VISIBLE_DEVICES=all \
    NVIDIA_DRIVER_CAPABILITIES=compute,utility \
    TILEWISE_WEIGHTS=/opt/tilewise/weights

ARG WEIGHTS=weights
COPY ${WEIGHTS} /opt/tilewise/weights/
ARG FETCH_WEIGHTS=default
COPY docker/fetch_weights.py /opt/tilewise/
COPY container/tilewise/registry /opt/tilewise/container/tilewise/registry/
RUN python3 /opt/tilewise/fetch_weights.py /opt/tilewise/weights ${FETCH_WEIGHTS:-none}

COPY LICENSE train serve /opt/tilewise/
COPY container /opt/tilewise/container
RUN chmod -R a+rX /opt/tilewise && python3 -m compileall -q --invalidation-mode checked-hash /opt/tilewise/container

EXPOSE 8080
HEALTHCHECK --interval=30s --timeout=5s --start-period=240s CMD ["/opt/tilewise/container/healthcheck"]

ARG VERSION=0.1.0
ARG REVISION=unknown
LABEL org.opencontainers.image.version=$VERSION org.opencontainers.image.revision=$REVISION

# SageMaker runs `docker run IMAGE train` and `… serve`; without a word it is train. env replaces itself by the
# command, which so is PID 1 and gets the signals.
ENTRYPOINT ["/usr/bin/env"]
CMD ["train"]
