"""A real Slurm of two nodes with accounting on this machine, and what jobs do on it."""
