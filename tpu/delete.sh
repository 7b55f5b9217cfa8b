#!/usr/bin/env bash
# Deletes a slice, whatever runs on it, after asking; then lists what is left that may cost something.
#
#   tpu/delete.sh [--name N] [--zone Z] [--project P] [--yes] [--dry-run]
#
# Buckets and what is in them are not touched.
# shellcheck source=tpu/common.sh
source "$(dirname "$0")/common.sh"
yes=false
read_flags "" "yes" "$@"

if ! "$yes" && ! "$dry_run"; then
  read -rp "Delete $name in $zone and everything on its disks? Type its name: " typed
  [[ $typed == "$name" ]] || fail "nothing was deleted"
fi
status=0
tpus run queued-resources delete "$name" --force --quiet || status=1
echo "Left in $zone:"
tpus run queued-resources list
tpus run tpu-vm list
disks=(gcloud compute disks list --filter "zone:$zone")
[[ -z $project ]] || disks+=(--project "$project")
run "${disks[@]}"
exit "$status"
