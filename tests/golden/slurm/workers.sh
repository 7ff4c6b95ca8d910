#!/bin/bash

# Parameters
#SBATCH --array=0-15%16
#SBATCH --cpus-per-task=8
#SBATCH --job-name=sweep-wide
#SBATCH --mem=16384M
#SBATCH --nodes=1
#SBATCH --ntasks-per-node=1
#SBATCH --open-mode=append
#SBATCH --output=/shared/runs/sweeps/wide/logs/%A_%a.log
#SBATCH --requeue
#SBATCH --signal=B:USR2@120
#SBATCH --time=4:00:00

# setup
export MARL_RUNS_DIR=/shared/runs
# The code as it was when it was submitted; PYTHONSAFEPATH keeps this folder's out.
export PYTHONPATH=/shared/runs/.frozen/code-1 PYTHONSAFEPATH=1
python=/shared/runs/.frozen/environment-1/bin/python

# command
export SUBMITIT_EXECUTOR=slurm
exec "$python" -m sweeps.worker /shared/runs/sweeps/wide /shared/runs/sweeps/wide/logs/"${SLURM_ARRAY_JOB_ID}_${SLURM_ARRAY_TASK_ID}.log" array
