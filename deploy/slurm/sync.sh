#!/bin/bash
# On a login node: send what jobs have left in the spool to the server.
#   ./sync.sh         once; ends with 1 while something is still to be sent
#   ./sync.sh 10      every ten minutes, until no job is left in the queue and all is sent
set -uo pipefail
cd "$(dirname "$0")" || exit
# shellcheck source=settings.sh.example
. ./settings.sh || exit
# shellcheck source=common.sh
. ./common.sh || exit
log_in || exit

while true; do
  left=$(squeue --noheader --me --name=galaxy-mlflow) || left=unknown
  "${inside[@]}" galaxy-mlflow sync
  code=$?
  if [[ -z ${1:-} || (-z $left && $code == 0) ]]; then
    exit "$code"
  fi
  sleep "$(($1 * 60))"
done
