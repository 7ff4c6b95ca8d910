"""Jobs on SLURM with submitit: calls the experiments, called by nobody."""
