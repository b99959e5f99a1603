#!/usr/bin/env bash
# Pushes the image to Amazon ECR and prints its URI, which the other examples take as --image.
#
#   push_to_ecr.sh [IMAGE [REPOSITORY[:TAG]]]     tilewise and tilewise:latest, unless named
#
# Needs the AWS CLI with credentials and a region, and docker or podman. The repository is made if it is not there.
set -euo pipefail
image=${1:-tilewise}
target=${2:-tilewise:latest}
[[ $target == *:* ]] || target=$target:latest
. "$(dirname "$0")/../local_test/engine.sh"

"$engine" image inspect "$image" >/dev/null 2>&1 || { echo "push_to_ecr.sh: there is no image $image: docker build -t $image ." >&2; exit 2; }
region=${AWS_REGION:-${AWS_DEFAULT_REGION:-$(aws configure get region || true)}}
[ -n "$region" ] || { echo "push_to_ecr.sh: set AWS_REGION" >&2; exit 2; }
account=$(aws sts get-caller-identity --query Account --output text)
case $region in cn-*) registry=$account.dkr.ecr.$region.amazonaws.com.cn ;; *) registry=$account.dkr.ecr.$region.amazonaws.com ;; esac

aws ecr describe-repositories --region "$region" --repository-names "${target%%:*}" >/dev/null 2>&1 ||
    aws ecr create-repository --region "$region" --repository-name "${target%%:*}" \
        --image-scanning-configuration scanOnPush=true >/dev/null
aws ecr get-login-password --region "$region" | "$engine" login --username AWS --password-stdin "$registry" >&2
"$engine" tag "$image" "$registry/$target"
"$engine" push "$registry/$target" >&2
echo "$registry/$target"
