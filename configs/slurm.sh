#!/bin/bash
# inferd over several nodes with Slurm, one rank on each:
#   sbatch --nodes 2 configs/slurm.sh MODEL [options of inferd serve]
# MODEL is a path that every node can read. Rank 0 runs on the job's first node, whose name is in the log, and answers there.
#   scancel JOB   drains: Slurm sends SIGTERM to all ranks, and SIGKILL after KillWait (30 s by default)
#SBATCH --job-name=inferd
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=1
#SBATCH --exclusive
#SBATCH --time=24:00:00
#SBATCH --output=inferd-%j.log
set -eu

model=${1:?usage: sbatch slurm.sh MODEL [options]}
shift
export INFERD_PORT=${INFERD_PORT:-8000}
echo "serving at http://$(hostname -f):$INFERD_PORT when ready"

# A node for each rank, so each may use all of its cores. When one ends badly, so do all.
exec srun --mpi=pmix --cpu-bind=none --kill-on-bad-exit=1 --label \
    inferd serve "$model" --host 0.0.0.0 --tensor-parallel-size "$SLURM_NTASKS" --shutdown-timeout 25 "$@"
