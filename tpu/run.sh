#!/usr/bin/env bash
# Runs one experiment on all workers, the same command on each, and follows the first worker's log.
#
#   tpu/run.sh [--name N] [--zone Z] [--project P] [--detach] [--dry-run] -- experiments.mrpc [flags of the experiment]
#
# The working tree is sent first, so what runs is what is here. It runs in tmux: closing this one leaves it running; --detach does
# not follow it. A run that was interrupted goes on when started again with the same flags. The status is the experiment's.
# shellcheck source=tpu/common.sh
source "$(dirname "$0")/common.sh"
detach=false
read_flags "" "detach" "$@"
((${#rest[@]})) || fail "say what to run after --, such as: tpu/run.sh -- experiments.mrpc --bf16"

send_tree
command="bash jaxformers/tpu/worker.sh run$(printf ' %q' "${rest[@]}")"
on_all_workers "tmux kill-session -t jaxformers 2>/dev/null; rm -f ~/run.status; tmux new-session -d -s jaxformers $(printf %q "$command")"
if "$detach"; then
  echo "It runs. tpu/status.sh --name $name --zone $zone shows how far it is."
  exit 0
fi
# Ends when the experiment does: the log is followed for as long as there is no status.
tpus run tpu-vm ssh "$name" --worker 0 --command 'bash jaxformers/tpu/worker.sh follow'
