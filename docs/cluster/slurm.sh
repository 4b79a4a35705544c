#!/bin/bash
# `sbatch docs/cluster/slurm.sh` in the project's folder, on a file system that all nodes share: a Ray cluster on the
# nodes of one job, and a command on it. Not run on a Slurm cluster.
#SBATCH --job-name=ct-reports
#SBATCH --nodes=4
#SBATCH --ntasks-per-node=1
#SBATCH --cpus-per-task=16
#SBATCH --time=04:00:00
#SBATCH --requeue
set -eu
export RAY_AUTH_MODE=token RAY_USAGE_STATS_ENABLED=0
ray=.venv/bin/ray
[ -s ~/.ray/auth_token ] || "$ray" get-auth-token --generate >/dev/null
nodes=$(scontrol show hostnames "$SLURM_JOB_NODELIST")
head=$(echo "$nodes" | head -n 1)
address=$(srun --nodes=1 --ntasks=1 -w "$head" hostname --ip-address | awk '{print $1}'):6379
srun --nodes=1 --ntasks=1 -w "$head" "$ray" start --head --node-ip-address="${address%:*}" --port=6379 \
    --num-cpus="$SLURM_CPUS_PER_TASK" --include-dashboard=false --block &
sleep 20
if [ "$SLURM_NNODES" -gt 1 ]; then
    srun --nodes="$((SLURM_NNODES - 1))" --exclude="$head" "$ray" start --address="$address" \
        --num-cpus="$SLURM_CPUS_PER_TASK" --block &
fi
# The batch script runs on the first node, which is the head.
./run.sh pipeline --preset full executor=ray ray.address="$address" paths.output="$PWD/output"
