"""Failures, signals and requeueing: how all ranks of a run end together."""
