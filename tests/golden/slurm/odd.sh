#!/bin/bash

# Parameters
#SBATCH --account=me
#SBATCH --cpus-per-task=4
#SBATCH --exclusive
#SBATCH --gpus-per-node=2
#SBATCH --gres=tmpdisk:100
#SBATCH --job-name='r 1'
#SBATCH --mem=1536M
#SBATCH --nice=7
#SBATCH --nodes=1
#SBATCH --ntasks-per-node=2
#SBATCH --open-mode=append
#SBATCH --output='/shared/runs/r 1/logs/%j.batch.log'
#SBATCH --partition=gpu
#SBATCH --requeue
#SBATCH --signal=USR2@120
#SBATCH --time=1:00:00

# setup
export NCCL_IB_DISABLE=1
export NOTE='it'"'"'s $HOME'
export MARL_RUNS_DIR=/shared/runs
module load cuda/12.4
# The code as it was when it was submitted; PYTHONSAFEPATH keeps this folder's out.
export PYTHONPATH=/shared/runs/.frozen/code-1 PYTHONSAFEPATH=1
python=/shared/runs/.frozen/environment-1/bin/python
runs=('r 1')
run="$MARL_RUNS_DIR/${runs[${SLURM_ARRAY_TASK_ID:-0}]}"
logs="$run/logs/$SLURM_JOB_ID"
srun_options=(--cpu-bind=none)

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
