#!/usr/bin/env bash
# Runs an experiment on a GKE cluster that xpk made (pip install xpk; xpk cluster create), in the image of tpu/Dockerfile.
#
#   tpu/xpk.sh --cluster C --image IMAGE [--name N] [--zone Z] [--project P] [--type v5litepod-16] [--slices 1] [--dry-run]
#              -- experiments.mrpc --bf16
#
# IMAGE is one that was pushed: docker build -f tpu/Dockerfile -t IMAGE . && docker push IMAGE
# shellcheck source=tpu/common.sh
source "$(dirname "$0")/common.sh"
cluster="" image="" type=v5litepod-16 slices=1
read_flags "cluster image type slices" "" "$@"
((${#rest[@]})) || fail "say what to run after --"
[[ -n $cluster && -n $image ]] || fail "give --cluster and --image"

options=(--cluster "$cluster" --workload "$name" --zone "$zone" --tpu-type "$type" --num-slices "$slices" --docker-image "$image")
[[ -z $project ]] || options+=(--project "$project")
run xpk workload create "${options[@]}" --command "python -m$(printf ' %q' "${rest[@]}")"
run xpk workload list --cluster "$cluster" --zone "$zone"
