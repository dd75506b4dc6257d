# What the scripts share; read after settings.sh.
# shellcheck shell=bash
# shellcheck disable=SC2034  # the scripts use what is set here

# Goes before a command: runs it in the container image, where settings.sh names one.
inside=()
if [[ -n ${IMAGE:-} ]]; then
  mkdir -p "$GALAXY_MLFLOW_HOME"  # what is bound must be there
  inside=(apptainer exec --nv --bind "$GALAXY_MLFLOW_HOME" "$IMAGE")
fi

# The password is in no script and no job's settings: who looks at the job sees the file's name.
log_in() {
  [[ -n ${MLFLOW_PASSWORD_FILE:-} ]] || return 0
  if [[ $(stat --format %a "$MLFLOW_PASSWORD_FILE") != [46]00 ]]; then
    echo "$MLFLOW_PASSWORD_FILE: must be there, for you alone: chmod 600 $MLFLOW_PASSWORD_FILE" >&2
    return 2
  fi
  MLFLOW_TRACKING_PASSWORD=$(<"$MLFLOW_PASSWORD_FILE")
  export MLFLOW_TRACKING_PASSWORD
}

# attend COMMAND...: runs it and passes SIGTERM on; bash alone would hear it when all is over.
attend() {
  local child code told=
  "$@" &
  child=$!
  trap 'told=yes; kill -TERM "$child" 2>/dev/null' TERM
  while wait "$child"; code=$?; [[ -n $told ]]; do
    told=  # the signal cut the waiting short
  done
  trap - TERM
  return "$code"
}

# go_on_later CODE: ends the job; one that was stopped (143) waits in the queue again. Where Slurm
# preempts without a word, or loses the node, it does so itself. A cancelled job is not running.
go_on_later() {
  local job=$SLURM_JOB_ID
  # The array's last task has the array's own number: by that, Slurm would requeue every task.
  [[ -z ${SLURM_ARRAY_TASK_ID:-} ]] || job=${SLURM_ARRAY_JOB_ID}_$SLURM_ARRAY_TASK_ID
  if [[ $1 == 14[23] && -n $(squeue --noheader --states=RUNNING --jobs="$job") ]]; then
    scontrol requeue "$job" && sleep 60  # until Slurm ends this script
  fi
  exit "$1"
}
