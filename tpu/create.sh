#!/usr/bin/env bash
# Asks for a TPU slice and waits until it is there.
#
#   tpu/create.sh [--name N] [--zone Z] [--project P] [--type v5litepod-8] [--runtime IMAGE] [--on-demand] [--minutes 120] [--dry-run]
#
# It is a spot machine (cheap, and taken away when others pay more) unless --on-demand says otherwise. Types: v5litepod-8 (one
# host), v5litepod-16 (four), v5p-128, v6e-8, v4-16, …; the runtime image is chosen by the type. Costs begin when it is ACTIVE.
# shellcheck source=tpu/common.sh
source "$(dirname "$0")/common.sh"
type=v5litepod-8 runtime="" minutes=120 on_demand=false
read_flags "type runtime minutes" "on-demand" "$@"

if [[ -z $runtime ]]; then
  case $type in
    v5litepod-*) runtime=v2-alpha-tpuv5-lite ;;
    v5p-*) runtime=v2-alpha-tpuv5 ;;
    v6e-*) runtime=v2-alpha-tpuv6e ;;
    *) runtime=tpu-ubuntu2204-base ;;
  esac
fi
options=(--node-id "$name" --accelerator-type "$type" --runtime-version "$runtime")
"$on_demand" || options+=(--spot)
tpus run queued-resources create "$name" "${options[@]}"

for ((waited = 0; waited <= minutes * 2; waited++)); do
  now=$(state ACTIVE)
  case $now in
    ACTIVE)
      echo "$name is ACTIVE. Next: tpu/setup.sh --name $name --zone $zone"
      exit 0
      ;;
    FAILED | SUSPENDED)
      echo "error: $name is $now; tpu/delete.sh --name $name --zone $zone, then try another zone or type" >&2
      exit 1
      ;;
  esac
  echo "${now:-unknown}" >&2
  sleep 30
done
echo "error: $name was not ACTIVE after $minutes minutes; it stays in the queue until tpu/delete.sh" >&2
exit 1
