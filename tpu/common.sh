# shellcheck shell=bash
# What the scripts share: their defaults, their flags, and `run`, which prints a command before it runs it.
set -euo pipefail

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
name=jaxformers       # of the queued resource and of its TPU machine
zone=us-west4-a       # `gcloud compute tpus accelerator-types list --zone ZONE` says what a zone has
project=""            # gcloud's own where none is given
dry_run=false
rest=()               # what follows `--`

# The comment at the head of the script.
usage() { sed -n '2,/^[^#]/s/^# \{0,1\}//p' "$0"; }

fail() {
  printf 'error: %s\n' "$*" >&2
  exit 2
}

# read_flags "VALUES" "SWITCHES" "$@": `--zone Z` sets zone=Z, `--dry-run` sets dry_run=true. All have name, zone and project.
read_flags() {
  local values=" name zone project${1:+ $1}" switches=" dry-run${2:+ $2}" flag
  shift 2
  while (($#)); do
    flag=${1#--}
    if [[ $1 == --help || $1 == -h ]]; then
      usage
      exit 0
    elif [[ $1 == -- ]]; then
      rest=("${@:2}")
      return
    elif [[ $1 == --*=* ]]; then
      set -- "${1%%=*}" "${1#*=}" "${@:2}"
    elif [[ $1 == --* && "$values " == *" $flag "* ]]; then
      (($# > 1)) || fail "$1 needs a value"
      printf -v "${flag//-/_}" %s "$2"
      shift 2
    elif [[ $1 == --* && "$switches " == *" $flag "* ]]; then
      printf -v "${flag//-/_}" true
      shift
    else
      values+=$switches
      fail "unknown flag $1; known are${values// / --}; see --help"
    fi
  done
}

# A command as one could paste it, on standard error: standard output is for answers.
show() {
  local word line="+"
  for word in "$@"; do
    [[ $word =~ ^[A-Za-z0-9_./:=@%+,-]+$ ]] || word=${word@Q}
    line+=" $word"
  done
  printf '%s\n' "$line" >&2
}

run() {
  show "$@"
  "$dry_run" || "$@"
}

# ask ANSWER COMMAND...: what a command prints, nothing where it fails; in a dry run ANSWER.
ask() {
  local pretended=$1
  shift
  show "$@"
  if "$dry_run"; then printf '%s\n' "$pretended"; else "$@" 2>/dev/null || true; fi
}

# tpus COMMAND...: gcloud's commands for TPUs, in the zone and project.
tpus() {
  local how=$1
  shift
  local line=(gcloud compute tpus "$@" --zone "$zone")
  [[ -z $project ]] || line+=(--project "$project")
  if [[ $how == run ]]; then run "${line[@]}"; else ask "${how#ask:}" "${line[@]}"; fi
}

# The queued resource's state: ACTIVE, WAITING_FOR_RESOURCES, PROVISIONING, SUSPENDED (preempted), FAILED; empty if there is none.
state() { tpus "ask:$1" queued-resources describe "$name" --format 'value(state.state)'; }

on_all_workers() { tpus run tpu-vm ssh "$name" --worker all --command "$1"; }

# on_first_worker ANSWER COMMAND: what it prints there; in a dry run ANSWER.
on_first_worker() { tpus "ask:$1" tpu-vm ssh "$name" --worker 0 --command "$2"; }

# Copies the working tree, but for what git ignores, to ~/jaxformers on every worker.
send_tree() {
  local archive=${TMPDIR:-/tmp}/jaxformers-$name.tar.gz
  run bash -c "cd $(printf %q "$root") && git ls-files -z --cached --others --exclude-standard | tar czf $archive --ignore-failed-read --null -T -"
  tpus run tpu-vm scp "$archive" "$name:/tmp/jaxformers.tar.gz" --worker all
  on_all_workers 'mkdir -p ~/jaxformers && tar xzf /tmp/jaxformers.tar.gz -C ~/jaxformers'
}
