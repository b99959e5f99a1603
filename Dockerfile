# One image that trains and serves, on CPU and GPU. Built by docker (with or without BuildKit), podman and kaniko:
#
#   docker build -t tilewise .
#
#   --build-arg BASE_IMAGE=…    any Debian with Python 3.11 and its venv module
#   --build-arg WEIGHTS=…       what to bake in below weights/: a folder, or one file; see weights/README.md
#   --build-arg REVISION=$(git rev-parse HEAD)

ARG BASE_IMAGE=python:3.11-slim-bookworm


# PyTorch and CUDA are cut from the other pins: their layers stay when another package changes.
FROM ${BASE_IMAGE} AS pins
COPY requirements.txt /
# Left out are packages of torch.compile, which needs a C compiler at run time, and so could not work here.
RUN grep -E '^[a-zA-Z0-9._-]+==' /requirements.txt | grep -vE '^(triton|cuda-bindings|cuda-pathfinder)==' >/all.txt \
    && grep -E '^(torch|torchvision|nvidia-.*)==' /all.txt >/torch.txt \
    && grep -vE '^(torch|torchvision|nvidia-.*)==' /all.txt >/packages.txt


FROM ${BASE_IMAGE} AS builder
# uv takes its certificates from the system, as pip does: a company's own may be in the base image.
ENV UV_SYSTEM_CERTS=1 UV_NATIVE_TLS=1 UV_LINK_MODE=copy UV_PYTHON=/opt/venv/bin/python3 \
    PIP_CERT=/etc/ssl/certs/ca-certificates.crt PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1
RUN python3 -m venv /opt/uv && /opt/uv/bin/pip install --quiet uv==0.13.8 \
    && python3 -m venv --without-pip /opt/venv


FROM builder AS torch
COPY --from=pins /torch.txt /
# --no-deps: the pins are complete. What goes: headers and static libraries, for compiling against; NVRTC a second
# time, for old drivers of another kind; cuSOLVER for several GPUs, and NVSHMEM's device code, which torch never loads.
RUN /opt/uv/bin/uv pip install --quiet --no-deps -r /torch.txt \
    && cd /opt/venv/lib/python3*/site-packages \
    && rm -rf torch/include torch/bin/protoc* torch/share nvidia/*/include \
    && rm -f nvidia/cuda_nvrtc/lib/libnvrtc*.alt.so.* nvidia/cusolver/lib/libcusolverMg.so.* \
        nvidia/nvshmem/lib/libnvshmem_device.* \
    && find . -name '*.a' -delete \
    && python3 -m compileall -q -j 0 --invalidation-mode unchecked-hash . \
    && mkdir -p "/layers/cuda$PWD" "/layers/torch$PWD" \
    && mv nvidia "/layers/cuda$PWD/" \
    && mv ./* "/layers/torch$PWD/"


FROM builder AS packages
# sagemaker-training has a part in C, and builds with what its source asks for: pinned here, since it asks for the newest.
RUN apt-get update -qq \
    && headers=$(python3 -c 'import os, sysconfig; print(os.path.exists(sysconfig.get_path("include") + "/Python.h"))') \
    && apt-get install -y -qq --no-install-recommends gcc libc6-dev $([ "$headers" = True ] || echo python3-dev) \
    && rm -rf /var/lib/apt/lists/*
COPY --from=pins /packages.txt /
RUN echo 'setuptools==80.9.0' >/build.txt \
    && /opt/uv/bin/uv pip install --quiet --no-deps --build-constraints /build.txt -r /packages.txt \
    && python3 -m compileall -q -j 0 --invalidation-mode unchecked-hash /opt/venv/lib


FROM ${BASE_IMAGE}

LABEL org.opencontainers.image.title="Tilewise" \
      org.opencontainers.image.description="Trains and serves detectors of small objects in large images on SageMaker" \
      org.opencontainers.image.licenses="Apache-2.0" \
      com.amazonaws.sagemaker.capabilities.accept-bind-to-port="true"

COPY --from=torch /layers/cuda/ /
COPY --from=torch /layers/torch/ /
COPY --from=packages /opt/venv /opt/venv

# /opt/tilewise first: sagemaker-training installs a `train` of its own. Caches go to /tmp: the root may be read-only.
ENV PATH=/opt/tilewise:/opt/venv/bin:$PATH \
    PYTHONPATH=/opt/tilewise/container \
    PYTHONUNBUFFERED=1 \
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
