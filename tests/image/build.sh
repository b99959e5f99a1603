#!/usr/bin/env bash
# Builds the images that tests/image test, localhost/tilewise-test and localhost/tilewise-test-cpu, over a base that debootstrap makes: no registry is
# needed. Needs root, podman, runc and debootstrap; BASE_IMAGE=… builds over another base, without debootstrap;
# MIRROR=… takes Debian from elsewhere.
#
# Exit status 3 where no container can run on this machine; the reason is on stderr.
set -euo pipefail
cd "$(dirname "$0")/../.."
export CONTAINERS_CONF=${CONTAINERS_CONF:-$PWD/tests/image/containers.conf}
base=${BASE_IMAGE:-localhost/tilewise-test-base}
step() { printf '[%3d s] %s\n' $SECONDS "$*"; }

if ! command -v podman >/dev/null; then
    echo "tests/image/build.sh: podman is not installed" >&2
    exit 3
fi
if [ -z "${BASE_IMAGE:-}" ] && ! podman image exists "$base"; then
    if [ "$(id -u)" != 0 ] || ! command -v debootstrap >/dev/null; then
        echo "tests/image/build.sh: a base is made by root, with debootstrap; or name one in BASE_IMAGE" >&2
        exit 3
    fi
    step "a base image of Debian's own Python"
    root=$(mktemp -d)
    trap 'rm -rf "$root"' EXIT
    debootstrap --variant=minbase --include=python3,python3-venv,ca-certificates bookworm "$root" \
        ${MIRROR:+"$MIRROR"} >"$root.log" 2>&1 || { tail -20 "$root.log" >&2; exit 1; }
    rm -f "$root.log" "$root"/var/cache/apt/archives/*.deb
    tar -C "$root" -c . | podman import --quiet - "$base" >/dev/null
fi

step "can a container run here?"
if ! podman run --rm --network none "$base" true; then
    echo "tests/image/build.sh: podman cannot run a container on this machine" >&2
    exit 3
fi

# What uv has in its cache need not be downloaded again.
cache=()
if command -v uv >/dev/null && [ -d "$(uv cache dir)" ]; then
    cache=(--volume "$(uv cache dir):/uv-cache" --build-arg UV_NO_CACHE=0)
fi
build() { # build TAG [OPTION …]
    step "the image $1"
    podman build --quiet --format docker --tag "$1" --build-arg "BASE_IMAGE=$base" "${cache[@]}" "${@:2}" . >/dev/null
    step "$(podman image inspect "$1" --format 'built: {{.Size}} bytes in {{len .RootFS.Layers}} layers:')"
    podman history "$1" --format '{{.Size}}  {{.CreatedBy}}' | grep -v '^0 B' | cut -c1-110
}
build localhost/tilewise-test --build-arg FETCH_WEIGHTS=none
build localhost/tilewise-test-cpu --target cpu
