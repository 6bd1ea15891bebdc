"""Optimizers and learning-rate schedules."""

from lmrecipes.optim.bert_adam import BertAdam
from lmrecipes.optim.build import build_optimizer
from lmrecipes.optim.groups import GroupSettings, parameter_groups
from lmrecipes.optim.lamb import LAMB
from lmrecipes.optim.schedules import (
    Constant,
    Cosine,
    InverseSquareRoot,
    Linear,
    Polynomial,
    Schedule,
    StepSchedule,
    WarmupAnnealing,
)

__all__ = [
    "LAMB",
    "BertAdam",
    "Constant",
    "Cosine",
    "GroupSettings",
    "InverseSquareRoot",
    "Linear",
    "Polynomial",
    "Schedule",
    "StepSchedule",
    "WarmupAnnealing",
    "build_optimizer",
    "parameter_groups",
]
