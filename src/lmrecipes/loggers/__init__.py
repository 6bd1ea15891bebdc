"""Loggers: always a CSV file, and wandb and TensorBoard by preset."""

from lmrecipes.loggers.csv_file import RunCSVLogger
from lmrecipes.loggers.run_logger import RunLogger
from lmrecipes.loggers.tensorboard import TensorBoardLogger
from lmrecipes.loggers.wandb import WandbLogger

__all__ = ["RunCSVLogger", "RunLogger", "TensorBoardLogger", "WandbLogger"]
