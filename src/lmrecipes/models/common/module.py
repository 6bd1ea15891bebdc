"""What the LightningModules of all models share: building, optimizer, steps, and metrics by split."""

from __future__ import annotations

import warnings
from abc import abstractmethod
from collections.abc import Callable, Iterator
from typing import Any, cast

from lightning.pytorch import LightningModule
from lightning.pytorch.cli import OptimizerCallable
from torch import Tensor, nn
from torchmetrics import Metric

from lmrecipes.batches import BatchPlan
from lmrecipes.checkpoints.weight_files import matched
from lmrecipes.metrics.perplexity import TokenLoss
from lmrecipes.models.common.memory_check import check_memory
from lmrecipes.models.common.protocols import ChecksPrecision
from lmrecipes.models.common.vocab_size import corpus_of, with_vocabulary
from lmrecipes.optim import GroupSettings, Schedule, StepSchedule, build_optimizer, parameter_groups
from lmrecipes.trainer_state import completes_step, data_rank, is_sanity_check, logs_step, sum_over_ranks

SPLITS = ("train", "val", "test")
# Key in a checkpoint for sums of training metrics that were not logged yet.
_TRAINING_METRICS = "training_metrics"


class RecipeModule(LightningModule):
    """Base class of the models: subclasses define the network and the loss of a batch.

    They define `build` and `loss`, and override `initialize`, `evaluate`, `compute_metrics`, `depth` and
    `parameters_to_train` where theirs differ. A metric of `add_metric` is kept by split, summed over micro-batches and
    ranks, and reset once it is logged.
    """

    network: Any

    def __init__(
        self,
        config: Any,
        optimizer: OptimizerCallable,
        schedule: Schedule,
        batch: BatchPlan,
        *,
        groups: GroupSettings | None = None,
        compile: bool = False,
    ) -> None:
        """Stores the settings; `configure_model` builds the network once the vocabulary is known.

        Args:
            config: sizes of the network.
            optimizer: makes the optimizer from the parameters.
            schedule: learning rate by step.
            batch: a recipe's `batch:` group.
            groups: parameter groups of the optimizer; default: no weight decay for norms and biases.
            compile: whether to apply torch.compile to the network.
        """
        super().__init__()
        self.config = config
        self.batch_plan = batch
        self._optimizer = optimizer
        self._schedule = schedule
        self._groups = groups or GroupSettings()
        self._compile = compile
        self._metrics_by_split = nn.ModuleDict()

    # Defined by subclasses.

    @abstractmethod
    def build(self) -> nn.Module:
        """The network of `self.config`."""

    @abstractmethod
    def loss(self, batch: Any, split: str) -> Tensor:
        """Mean loss of a batch, whose metrics are added to the metrics of the split."""

    def initialize(self) -> None:
        """Loads published weights into the new network, if the recipe names some."""

    def evaluate(self, batch: Any, split: str) -> Any:
        """Adds a batch to the metrics of the split; what it returns goes to callbacks."""
        self.loss(batch, split)

    def compute_metrics(self, split: str) -> dict[str, Tensor]:
        """The metrics of a split to log, by name."""
        return {"loss": self.metric(split, "loss").compute()}

    def depth(self, name: str) -> int:
        """Depth of a parameter, for rates that fall from layer to layer.

        Raises:
            ValueError: if this model has none.
        """
        raise ValueError("model.groups.layer_decay is for fine-tuning; leave it out of pretraining")

    def parameters_to_train(self) -> Any:
        """Parameters or parameter groups for the optimizer."""
        return parameter_groups(self.network, self._groups, self.depth)

    # Shared implementation.

    def add_metric(self, name: str, make: Callable[[], Metric] = TokenLoss, splits: tuple[str, ...] = SPLITS) -> None:
        """Keeps a metric of this name for every split."""
        for split in splits:
            self._metrics_by_split[f"{split}_{name}"] = make()

    def metric(self, split: str, name: str) -> Any:
        """The metric of this name, of one split."""
        return self._metrics_by_split[f"{split}_{name}"]

    def has_metric(self, split: str, name: str) -> bool:
        """Whether a split has a metric of this name."""
        return f"{split}_{name}" in self._metrics_by_split

    def configure_model(self) -> None:
        """Builds the network, for the corpus's vocabulary where the recipe leaves its size open.

        Raises:
            ValueError: for a precision or a vocabulary that does not fit.
        """
        if hasattr(self, "network"):
            return
        if isinstance(self, ChecksPrecision) and (self._trainer or self._fabric):
            self.check_precision(str(self.trainer.precision))
        self.config = with_vocabulary(self.config, corpus_of(self))
        with check_memory(self.config):
            self.network = self.build()
        self.initialize()
        if self._compile:
            self.network.compile()

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        """Mean loss of one micro-batch."""
        loss = self.loss(batch, "train")
        if logs_step(self.trainer) and completes_step(self.trainer):
            # Over all micro-batches since the last logged step.
            self.log_split("train")
        return loss

    def on_validation_epoch_start(self) -> None:
        """Resets the metrics: an interrupted validation may have left counts."""
        self.begin_split("val")

    def on_test_epoch_start(self) -> None:
        """Resets the metrics: an interrupted test may have left counts."""
        self.begin_split("test")

    def validation_step(self, batch: Any, batch_idx: int) -> Any:
        """Adds a batch to the validation metrics."""
        return self.evaluate(batch, "val")

    def test_step(self, batch: Any, batch_idx: int) -> Any:
        """Adds a batch to the test metrics."""
        return self.evaluate(batch, "test")

    def on_validation_epoch_end(self) -> None:
        """Logs the validation metrics."""
        self.log_split("val")

    def on_test_epoch_end(self) -> None:
        """Logs the test metrics."""
        self.log_split("test")

    def begin_split(self, split: str) -> None:
        """Resets the metrics of a split."""
        for name, metric in self._metrics_by_split.items():
            if name.startswith(f"{split}_"):
                cast(Metric, metric).reset()

    def log_split(self, split: str) -> None:
        """Logs the metrics of a split, reduced over ranks, and resets them.

        Raises:
            ValueError: if an evaluation scored nothing; a training that validates nothing is warned of instead.
        """
        with warnings.catch_warnings():
            # torchmetrics warns of this too, and of a rank without batches.
            warnings.filterwarnings("ignore", "The ``compute`` method of metric")
            metrics = self.compute_metrics(split)
        undefined = "loss" in metrics and bool(metrics["loss"].isnan()) and self._scored_nothing(split)
        if split != "train" and undefined and not is_sanity_check(self.trainer):
            # The first segments of an evaluation with memory may be a warm-up, which is not scored.
            hint = f"; raise trainer.limit_{split}_batches, or leave it out" if self.batch_plan.mem_len else ""
            message = f"{split}/loss is undefined: no token of the evaluated batches is scored{hint}"
            if self.trainer.state.fn != "fit":
                raise ValueError(message)
            warnings.warn(message, stacklevel=2)
        self.log_dict({f"{split}/{name}": value for name, value in metrics.items()}, batch_size=1)
        self.begin_split(split)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Adds the training metrics since the last logged step, summed over ranks: a resumed run logs the same mean."""
        copies = self.trainer.world_size // data_rank(self.trainer).size
        checkpoint[_TRAINING_METRICS] = {
            name: (sum_over_ranks(self.trainer, state.clone()) / copies).cpu()
            for name, state in self._training_states()
        }

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Restores them on the first rank, where saved; names the weights of other programs as here."""
        if "state_dict" in checkpoint:
            path = getattr(self.trainer, "ckpt_path", None)
            source = "the checkpoint" if path is None else f"checkpoint {path}"
            checkpoint["state_dict"] = matched(checkpoint["state_dict"], self, source)
        saved = checkpoint.get(_TRAINING_METRICS, {})
        for name, state in self._training_states():
            if name in saved and data_rank(self.trainer).rank == 0:
                state.copy_(saved[name])

    def _training_states(self) -> Iterator[tuple[str, Tensor]]:
        for name, metric in self._metrics_by_split.items():
            if name.startswith("train_"):
                for part, state in cast(Metric, metric).metric_state.items():
                    if isinstance(state, Tensor):
                        yield f"{name}.{part}", state

    def _scored_nothing(self, split: str) -> bool:
        losses = [metric for name, metric in self._metrics_by_split.items() if name.startswith(f"{split}_")]
        return all(not metric.count for metric in losses if isinstance(metric, TokenLoss))

    def configure_optimizers(self) -> Any:
        """The recipe's optimizer; the learning rate moves every optimizer step."""
        # Clipping under 16-mixed unscales gradients, which a fused optimizer does by itself.
        fused = self.trainer.precision != "16-mixed"
        optimizer = build_optimizer(self._optimizer, self.parameters_to_train(), fused=fused)
        scheduler = StepSchedule(optimizer, self._schedule, max_steps=self.trainer.max_steps)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}
