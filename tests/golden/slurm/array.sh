#!/bin/bash

# Parameters
#SBATCH --array=0-2%2
#SBATCH --cpus-per-task=8
#SBATCH --job-name=r-s0
#SBATCH --mem=16384M
#SBATCH --nodes=1
#SBATCH --ntasks-per-node=1
#SBATCH --open-mode=append
#SBATCH --output=/shared/runs/r-s0/logs/%A_%a.batch.log
#SBATCH --requeue
#SBATCH --signal=USR2@120
#SBATCH --time=4:00:00

# setup
export MARL_RUNS_DIR=/shared/runs
# The code as it was when it was submitted; PYTHONSAFEPATH keeps this folder's out.
export PYTHONPATH=/shared/runs/.frozen/code-1 PYTHONSAFEPATH=1
python=/shared/runs/.frozen/environment-1/bin/python
runs=(r-s0 r-s1 r-s2)
run="$MARL_RUNS_DIR/${runs[${SLURM_ARRAY_TASK_ID:-0}]}"
logs="$run/logs/$SLURM_JOB_ID"
srun_options=()

# command
export SUBMITIT_EXECUTOR=slurm
"$python" -m slurm.attempt begin "$run"; code=$?
[ $code = 10 ] && exit 0; [ $code = 0 ] || exit $code
# A process that fails ends the others; srun itself speaks to logs/*.srun.log. Since
# Slurm 22.05 it does not know how many cores a process has unless it is told.
srun --unbuffered --kill-on-bad-exit=1 --wait=0 --open-mode=append \
    --cpus-per-task="$SLURM_CPUS_PER_TASK" --output="$logs.rank%t.log" \
    "${srun_options[@]}" "$python" -m slurm.job "$run" 2>>"$logs.srun.log"
exec "$python" -m slurm.attempt end "$run" $?
