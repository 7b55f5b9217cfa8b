#!/usr/bin/env bash
# Sees a run through: makes the slice, sets it up, runs, and when the machines are taken away does so again until it has ended.
#
#   tpu/babysit.sh --bucket B [--name N] [--zone Z] [--project P] [--type T] [--runtime IMAGE] [--on-demand] [--minutes M]
#                  [--retries 100] [--every 60] [--dry-run] -- experiments.mrpc --output-dir bucket/mrpc [flags]
#
# --output-dir must lie in the bucket: the same flags then resume the run from its last checkpoint. An experiment that fails by
# itself is tried again while there are --retries left, one with wrong flags (status 2) is not. The slice is left as it is in the end:
# tpu/delete.sh takes it away.
# shellcheck source=tpu/common.sh
source "$(dirname "$0")/common.sh"
type=v5litepod-8 runtime="" minutes=120 on_demand=false bucket="" retries=100 every=60
read_flags "type runtime minutes bucket retries every" "on-demand" "$@"
((${#rest[@]})) || fail "say what to run after --"
[[ -n $bucket ]] || fail "give --bucket: what a machine that is taken away holds is lost"
[[ " ${rest[*]}" =~ \ --output[-_]dir[\ =]bucket/ ]] || fail "let --output-dir lie in bucket/, which outlives the machines"

here=$(dirname "$0")
place=(--name "$name" --zone "$zone")
[[ -z $project ]] || place+=(--project "$project")
! "$dry_run" || place+=(--dry-run)
wanted=(--type "$type" --minutes "$minutes")
[[ -z $runtime ]] || wanted+=(--runtime "$runtime")
! "$on_demand" || wanted+=(--on-demand)

progress() { on_first_worker "ended 0" 'bash jaxformers/tpu/worker.sh progress'; }

# Anything between here and a running experiment may fail when machines are taken away in the midst of it: then it begins anew.
begin() {
  local now
  now=$(state "")
  if [[ $now == ACTIVE && $(progress) == running ]]; then
    return 0
  fi
  if [[ $now != ACTIVE ]]; then
    [[ -z $now ]] || tpus run queued-resources delete "$name" --force --quiet || return 1
    "$here/create.sh" "${place[@]}" "${wanted[@]}" || return 1
  fi
  "$here/setup.sh" "${place[@]}" --bucket "$bucket" || return 1
  "$here/run.sh" "${place[@]}" --detach -- "${rest[@]}"
}

for ((try = 0; try <= retries; try++)); do
  echo "start $((try + 1))" >&2
  if ! begin; then
    run sleep "$every"
    continue
  fi
  while [[ $(state ACTIVE) == ACTIVE ]]; do
    run sleep "$every"
    case $(progress) in
      "ended 0")
        echo "The run has ended. tpu/delete.sh --name $name --zone $zone takes the slice away."
        exit 0
        ;;
      "ended 2")
        echo "error: wrong flags; tpu/status.sh --name $name --zone $zone shows the log" >&2
        exit 2
        ;;
      ended* | "nothing runs") break ;;
    esac
  done
done
echo "error: it did not end in $((retries + 1)) starts" >&2
exit 1
