#!/bin/bash
# On a login node: any command of galaxy-mlflow, with the settings, the password and the image of jobs.
#   ./here.sh prepare "$STUDY"
set -uo pipefail
cd "$(dirname "$0")" || exit
# shellcheck source=settings.sh.example
. ./settings.sh || exit
# shellcheck source=common.sh
. ./common.sh || exit
log_in || exit
exec "${inside[@]}" galaxy-mlflow "$@"
