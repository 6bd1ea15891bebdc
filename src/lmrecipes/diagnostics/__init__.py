"""What is wrong with a machine or a SLURM job."""
