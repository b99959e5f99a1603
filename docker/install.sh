#!/bin/sh
# install.sh PINS: installs them, and nothing else, into /opt/venv, as one layer of an image.
#
# What only compiling against a package needs goes (headers, static libraries), and so do NVRTC's second copy, cuSOLVER
# for several GPUs and NVSHMEM's device code, which torch never loads.
set -eu

# uv takes its certificates from the system, as pip does: a company's own may be in the base image.
export UV_SYSTEM_CERTS=1 UV_LINK_MODE=hardlink PIP_CERT=/etc/ssl/certs/ca-certificates.crt
python3 -m venv /tmp/uv
/tmp/uv/bin/pip install --quiet --no-cache-dir --disable-pip-version-check uv==0.13.8

[ -d /opt/venv ] || python3 -m venv --without-pip /opt/venv
# --no-deps: the pins are complete. setuptools builds what comes as source, and would else be the newest.
echo 'setuptools==80.9.0' >/tmp/build.txt
/tmp/uv/bin/uv pip install --quiet --python /opt/venv/bin/python3 --no-deps --build-constraints /tmp/build.txt -r "$1"

cd /opt/venv/lib/python3*/site-packages
rm -rf nvidia/*/include torch/include torch/share torch/bin/protoc*
rm -f nvidia/cuda_nvrtc/lib/libnvrtc*.alt.so.* nvidia/cusolver/lib/libcusolverMg.so.* nvidia/nvshmem/lib/libnvshmem_device.*
find . -name '*.a' -delete
python3 -m compileall -q -j 0 --invalidation-mode unchecked-hash .
rm -rf /tmp/uv /tmp/build.txt
