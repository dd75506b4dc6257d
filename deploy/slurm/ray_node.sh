#!/bin/bash
# One node of the Ray cluster; ray.sbatch starts it on each node of the job.
set -uo pipefail
# shellcheck source=settings.sh.example
. ./settings.sh || exit
# shellcheck source=common.sh
. ./common.sh || exit

ray=(ray start --block --disable-usage-stats --num-cpus="$SLURM_CPUS_PER_TASK"
  --object-store-memory=500000000 --min-worker-port=0 --max-worker-port=0
  --dashboard-agent-listen-port="$((HEAD_PORT + 1))")
if [[ $SLURM_NODEID == 0 ]]; then
  ray+=(--head --node-ip-address="$HEAD_ADDRESS" --port="$HEAD_PORT" --include-dashboard=false
    --ray-client-server-port="$((HEAD_PORT + 2))"
    --temp-dir="/tmp/ray-$SLURM_JOB_ID")  # paths of sockets must be short
else
  until (exec 3<>"/dev/tcp/$HEAD_ADDRESS/$HEAD_PORT") 2>/dev/null; do sleep 1; done
  ray+=(--address="$HEAD_ADDRESS:$HEAD_PORT")
fi
exec "${inside[@]}" "${ray[@]}"
