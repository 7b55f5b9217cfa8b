#!/usr/bin/env bash
# Says how a slice and its run are, and shows the end of the first worker's log.
#
#   tpu/status.sh [--name N] [--zone Z] [--project P] [--lines 20] [--dry-run]
# shellcheck source=tpu/common.sh
source "$(dirname "$0")/common.sh"
lines=20
read_flags "lines" "" "$@"

now=$(state ACTIVE)
echo "$name: ${now:-there is none in $zone}"
[[ $now == ACTIVE ]] || exit 0
progress=$(on_first_worker running 'bash jaxformers/tpu/worker.sh progress')
echo "run: ${progress:-the first worker does not answer}"
on_first_worker "" "tail -n $lines ~/run.log"
