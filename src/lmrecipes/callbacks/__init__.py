"""Lightning callbacks, one job per file."""

from lmrecipes.callbacks.check_monitors import CheckMonitors
from lmrecipes.callbacks.checkpoints import BestCheckpoint, LastCheckpoint
from lmrecipes.callbacks.console_log import ConsoleLog, console_progress
from lmrecipes.callbacks.fail_fast import FailFast, set_group_timeout
from lmrecipes.callbacks.init_weights import InitWeights
from lmrecipes.callbacks.language_tokens import LanguageTokens
from lmrecipes.callbacks.learning_rate import LearningRate
from lmrecipes.callbacks.loss_guard import LossGuard, StoppedByLossGuard
from lmrecipes.callbacks.optimizer_state import KeepOptimizerSettings, PortableOptimizerState
from lmrecipes.callbacks.requeue import LeftBySignal, Requeue, take_signals_from
from lmrecipes.callbacks.resume_log import ResumeLog
from lmrecipes.callbacks.run_plot import RunPlot
from lmrecipes.callbacks.squad_answers import SquadAnswers
from lmrecipes.callbacks.step_seed import StepSeed
from lmrecipes.callbacks.text_accuracy import TextAccuracy
from lmrecipes.callbacks.throughput import Throughput
from lmrecipes.callbacks.watchdog import Watchdog

__all__ = [
    "BestCheckpoint",
    "CheckMonitors",
    "ConsoleLog",
    "FailFast",
    "InitWeights",
    "KeepOptimizerSettings",
    "LanguageTokens",
    "LastCheckpoint",
    "LearningRate",
    "LeftBySignal",
    "LossGuard",
    "PortableOptimizerState",
    "Requeue",
    "ResumeLog",
    "RunPlot",
    "SquadAnswers",
    "StepSeed",
    "StoppedByLossGuard",
    "TextAccuracy",
    "Throughput",
    "Watchdog",
    "console_progress",
    "set_group_timeout",
    "take_signals_from",
]
