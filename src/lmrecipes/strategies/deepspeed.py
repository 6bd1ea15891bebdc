"""DeepSpeed's ZeRO, stages 1 to 3 (Rajbhandari et al. 2020, arXiv:1910.02054), on GPUs and on CPU processes.

Checkpoints are the same folders as those of the other strategies, so that a run goes on with any number of processes,
under any strategy.
"""

from __future__ import annotations

import argparse
import logging
import os
import sysconfig
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from typing import Any, Literal

import torch
from lightning.pytorch.strategies import DeepSpeedStrategy
from torch import Tensor, nn
from torch.optim import Optimizer

from lmrecipes.checkpoints.optimizer_state import NamedStates
from lmrecipes.strategies.sharded import ShardedCheckpoints, distinct


class DeepSpeedZeROStrategy(ShardedCheckpoints, DeepSpeedStrategy):
    """Shards the optimizer's state (1), gradients too (2), and parameters too (3) over the processes."""

    def __init__(
        self,
        stage: Literal[1, 2, 3] = 2,
        offload_optimizer: bool = False,
        offload_parameters: bool = False,
        bucket_mb: float = 400.0,
        overlap_comm: bool = True,
        async_checkpoints: bool = True,
    ) -> None:
        """Sets how the state is sharded.

        Args:
            stage: what is sharded: 1 the optimizer's state, 2 gradients too, 3 parameters too.
            offload_optimizer: whether the optimizer's state stays in the CPU's memory.
            offload_parameters: whether parameters stay in the CPU's memory (stage 3).
            bucket_mb: megabytes of gradients or parameters sent at once.
            overlap_comm: whether communication overlaps the backward pass.
            async_checkpoints: whether checkpoints are written while training continues.

        Raises:
            ValueError: if DeepSpeed is not installed, or stage and offloading do not fit.
        """
        if find_spec("deepspeed") is None:
            raise ValueError(
                'trainer.strategy needs DeepSpeed, which is not installed: pip install "lmrecipes[deepspeed]"; '
                "fsdp2 does the same without it"
            )
        if offload_parameters and stage != 3:
            raise ValueError(f"trainer.strategy's offload_parameters needs stage 3, and stage is {stage}")
        self._prepare_import()
        elements = int(bucket_mb * 2**20 / 4)
        super().__init__(
            stage=stage,
            offload_optimizer=offload_optimizer,
            offload_parameters=offload_parameters,
            allgather_bucket_size=elements,
            reduce_bucket_size=elements,
            overlap_comm=overlap_comm,
            logging_level=logging.ERROR,
            # Only used by DeepSpeed's throughput log, which is off; if absent, Lightning inspects the loader.
            logging_batch_size_per_gpu=1,
        )
        assert isinstance(self.config, dict)
        # Allow optimizers other than DeepSpeed's own Adam with CPU offloading.
        self.config["zero_force_ds_cpu_optimizer"] = False
        self._async_checkpoints = async_checkpoints

    @staticmethod
    def _prepare_import() -> None:
        """Sets the environment that DeepSpeed reads when it is imported."""
        if not torch.cuda.is_available():
            os.environ.setdefault("DS_ACCELERATOR", "cpu")
        os.environ.setdefault("DS_LOG_LEVEL", "error")
        # DeepSpeed compiles its kernels with ninja, which is installed beside Python.
        scripts = sysconfig.get_path("scripts")
        if scripts not in os.environ.get("PATH", "").split(os.pathsep):
            os.environ["PATH"] = os.pathsep.join([scripts, os.environ.get("PATH", "")])

    def setup_environment(self) -> None:
        """As Lightning's, without requiring a GPU."""
        super(DeepSpeedStrategy, self).setup_environment()

    def setup_distributed(self) -> None:
        """As Lightning's, without requiring a GPU index."""
        if self.root_device.type == "cuda":
            super().setup_distributed()
        else:
            import deepspeed

            # Compiled when first used, for sums within one machine; a process killed meanwhile would leave a lock
            # on which all later ones wait. gloo reduces as well.
            deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
            self.set_world_ranks()
            self._init_deepspeed_distributed()
        self.open_writer(self._async_checkpoints)

    @contextmanager
    def model_sharded_context(self) -> Iterator[None]:
        """Builds the whole model on every process, from the seed, before its parameters are sharded in stage 3.

        DeepSpeed's own context shards parameters as they are created, which leaves nothing to initialize.
        """
        self._init_config_if_needed()
        yield

    def _setup_model_and_optimizer(
        self, model: nn.Module, optimizer: Optimizer | None, lr_scheduler: Any = None
    ) -> tuple[Any, Optimizer]:
        """As Lightning's, with a CPU process's rank in place of a GPU's index."""
        import deepspeed

        index = self.root_device.index
        engine, wrapped, _, _ = deepspeed.initialize(
            args=argparse.Namespace(device_rank=self.local_rank if index is None else index),
            config=self.config,
            model=model,
            model_parameters=filter(lambda p: p.requires_grad, model.parameters()),
            optimizer=optimizer,
            lr_scheduler=lr_scheduler,
            dist_init_required=False,
        )
        return engine, wrapped

    def _initialize_deepspeed_inference(self, model: nn.Module) -> None:
        """Evaluates through DeepSpeed if parameters are sharded, and with the plain model otherwise."""
        if self.zero_stage_3 and self.root_device.type == "cuda":
            super()._initialize_deepspeed_inference(model)
        else:
            self.model = model

    @property
    def left_step_out(self) -> bool:
        """Whether DeepSpeed skipped the last optimizer step because a gradient was not finite.

        False under float16, where it skips steps to search for a scale.
        """
        engine: Any = self.model
        return not engine.fp16_enabled() and not engine.was_step_applied()

    # Checkpoints.

    @property
    def lightning_restore_optimizer(self) -> bool:
        """Does nothing: `load_checkpoint` restores it."""
        return False

    @property
    def _zero(self) -> Any:
        """DeepSpeed's optimizer around ours; None in evaluation."""
        zero = getattr(self.model, "optimizer", None)
        return zero if hasattr(zero, "optimizer") else None

    def _mine(self, index: int) -> bool:
        """Whether this process writes the parameter of that number."""
        return index % self.world_size == self.global_rank

    def lightning_module_state_dict(self) -> dict[str, Any]:
        """The weights that this process writes, in full and in float32."""
        from deepspeed.utils import safe_get_full_fp32_param

        weights = {}
        for index, (name, parameter) in enumerate(distinct(self.lightning_module).items()):
            value = safe_get_full_fp32_param(parameter) if parameter.requires_grad else self._gathered(parameter)
            if self._mine(index):
                weights[name] = value.detach().cpu()
        return weights

    def _gathered(self, parameter: Tensor) -> Tensor:
        import deepspeed

        with deepspeed.zero.GatheredParameters([parameter], enabled=self.zero_stage_3):
            return parameter.detach().clone()

    def optimizer_state(self, optimizer: Optimizer) -> dict[str, Any]:
        """The optimizer states that this process writes, in full, by parameter name."""
        from deepspeed.utils import safe_get_full_optimizer_state

        zero, states = self._zero, {}
        counts: dict[str, Any] = next(iter(zero.optimizer.state.values()), {})
        if not counts:
            return {}
        flat = next(iter(zero.optimizer.state))
        if not self.zero_stage_3:
            # In the first step DeepSpeed finds the states of the first parameter group only.
            zero._hp_optimizer_states_linked = False
            zero._lazy_init_hp_params_optimizer_state()
        for index, (name, parameter) in enumerate(self._trained()):
            state = {
                key: safe_get_full_optimizer_state(parameter, key).detach().cpu()
                if value.shape == flat.shape
                else value.detach().cpu()
                for key, value in counts.items()
                if isinstance(value, Tensor)
            }
            if self._mine(index):
                states[name] = state
        return states

    def _trained(self) -> list[tuple[str, Tensor]]:
        return [(name, p) for name, p in distinct(self.lightning_module).items() if p.requires_grad]

    def set_weight(self, parameter: Tensor, value: Tensor) -> None:
        """Sets a parameter and the optimizer's float32 master copy to a full tensor."""
        import deepspeed
        from deepspeed.utils import safe_set_full_fp32_param, safe_set_local_fp32_param

        with (
            torch.no_grad(),
            deepspeed.zero.GatheredParameters([parameter], modifier_rank=0, enabled=self.zero_stage_3),
        ):
            parameter.copy_(value)
        if self._zero is not None and parameter.requires_grad:
            precise = value.to(parameter.device, torch.float32)
            if self.zero_stage_3:
                safe_set_local_fp32_param(parameter, self._own_part(parameter, precise))
            else:
                safe_set_full_fp32_param(parameter, precise)

    def _own_part(self, parameter: Any, value: Tensor) -> Tensor:
        """This process's shard in stage 3: shards have equal length, and the last may reach beyond the end.

        DeepSpeed's own setter refuses tensors that do not divide evenly.
        """
        size, flat = parameter.ds_tensor.numel(), value.flatten()
        padded = nn.functional.pad(flat, (0, size * self.world_size - len(flat)))
        return padded.narrow(0, size * self.global_rank, size)

    def set_states(self, states: NamedStates) -> None:
        """Sets the optimizer's state from full tensors by parameter name; in evaluation there is none."""
        if self._zero is None:
            return
        from deepspeed.utils import safe_set_full_optimizer_state, safe_set_local_optimizer_state

        zero = self._zero
        one = next(iter(states.values()))
        pieces = zero.fp32_partitioned_groups_flat if self.zero_stage_3 else zero.single_partition_of_fp32_groups
        for flat in pieces:
            zero.optimizer.state[flat] = {
                key: torch.zeros_like(flat) if value.dim() else value.clone() for key, value in one.items()
            }
        if not self.zero_stage_3:
            # DeepSpeed would otherwise do it lazily in the first step.
            zero._lazy_init_hp_params_optimizer_state()
        for name, parameter in self._trained():
            for key, value in states[name].items():
                if value.dim() and self.zero_stage_3:
                    safe_set_local_optimizer_state(
                        parameter, self._own_part(parameter, value.to(parameter.device)), key
                    )
                elif value.dim():
                    safe_set_full_optimizer_state(parameter, value.to(parameter.device), key)
