#!/usr/bin/env bash
# Puts this tree and its environment on every worker, and looks whether the chips work. May be run again at any time.
#
#   tpu/setup.sh [--name N] [--zone Z] [--project P] [--bucket B] [--dry-run]
#
# With --bucket the Cloud Storage bucket B is mounted as `bucket` where experiments run, on every worker
# (gcsfuse): what is written to bucket/… outlives the machines, and all workers see it, which checkpoints of several hosts need.
# shellcheck source=tpu/common.sh
source "$(dirname "$0")/common.sh"
bucket=""
read_flags "bucket" "" "$@"

send_tree
on_all_workers "cd ~/jaxformers && bash tpu/worker.sh install${bucket:+ $(printf %q "$bucket")}"
on_all_workers "cd ~/jaxformers && . .venv/bin/activate && python -m tpu.check --storage ${bucket:+bucket/}check"
echo "$name is ready. Next: tpu/run.sh --name $name --zone $zone -- experiments.mrpc --bf16"
