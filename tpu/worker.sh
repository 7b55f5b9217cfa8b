#!/usr/bin/env bash
# What happens on a worker; the other scripts call it there.
#
#   worker.sh install [BUCKET]    the environment in ~/jaxformers/.venv, and BUCKET mounted as ~/jaxformers/bucket
#   worker.sh run MODULE [FLAGS]  python -m MODULE, its output to ~/run.log and its status to ~/run.status
#   worker.sh follow              shows the log until there is a status, and ends with it
#   worker.sh progress            one line: the status of the last run, or `running`, or `nothing runs`
set -euo pipefail
cd "$(dirname "$0")/.."
action=${1:?say what to do, see the head of this file}
shift

case $action in
  install)
    export PATH=$HOME/.local/bin:$PATH
    command -v uv >/dev/null || curl -LsSf https://astral.sh/uv/install.sh | sh
    [[ -d .venv ]] || uv venv --python 3.11 .venv
    uv pip install --quiet --python .venv/bin/python -e '.[tpu]'
    command -v tmux >/dev/null || { sudo apt-get update -q && sudo apt-get install -yq tmux; }
    if [[ -n ${1:-} ]] && ! mountpoint -q bucket; then
      if ! command -v gcsfuse >/dev/null; then
        release=gcsfuse-$(lsb_release -cs)
        curl -LsSf https://packages.cloud.google.com/apt/doc/apt-key.gpg | sudo tee /usr/share/keyrings/cloud.google.asc >/dev/null
        echo "deb [signed-by=/usr/share/keyrings/cloud.google.asc] https://packages.cloud.google.com/apt $release main" |
          sudo tee /etc/apt/sources.list.d/gcsfuse.list >/dev/null
        sudo apt-get update -q
        sudo apt-get install -yq gcsfuse
      fi
      mkdir -p bucket
      gcsfuse --implicit-dirs "$1" bucket
    fi
    ;;
  run)
    # shellcheck disable=SC1091
    . .venv/bin/activate
    rm -f ~/run.status
    status=0
    { echo "+ python -m $*"; python -m "$@"; } >>~/run.log 2>&1 || status=$?
    echo "$status" >~/run.status
    ;;
  follow)
    touch ~/run.log
    tail -n 100 -F ~/run.log &
    shown=$!
    until [[ -s ~/run.status ]]; do sleep 2; done
    sleep 2
    kill "$shown"
    exit "$(cat ~/run.status)"
    ;;
  progress)
    if [[ -s ~/run.status ]]; then
      echo "ended $(cat ~/run.status)"
    elif tmux has-session -t jaxformers 2>/dev/null; then
      echo running
    else
      echo "nothing runs"
    fi
    ;;
  *)
    echo "error: worker.sh knows no $action" >&2
    exit 2
    ;;
esac
