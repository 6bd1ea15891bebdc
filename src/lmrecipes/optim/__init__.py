"""Optimizers and learning-rate schedules."""

from lmrecipes.optim.build import build_optimizer
from lmrecipes.optim.lamb import LAMB
from lmrecipes.optim.schedules import Constant, Cosine, InverseSquareRoot, Linear, Schedule, StepSchedule

__all__ = [
    "LAMB",
    "Constant",
    "Cosine",
    "InverseSquareRoot",
    "Linear",
    "Schedule",
    "StepSchedule",
    "build_optimizer",
]
