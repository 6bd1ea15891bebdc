"""Checks of a machine and of a SLURM job."""
