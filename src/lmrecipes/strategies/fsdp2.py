"""Sharded data parallelism (FSDP2) and tensor parallelism by DTensor, on GPUs and on CPU processes."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import torch
from lightning.pytorch import Trainer
from lightning.pytorch.strategies import ModelParallelStrategy
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.optim import Optimizer

from lmrecipes.checkpoints import sharded
from lmrecipes.checkpoints.optimizer_state import named_states, parameters_of, room_for
from lmrecipes.checkpoints.sharded import STATES, WEIGHTS
from lmrecipes.optim.norms import clip_by_global_norm, local
from lmrecipes.strategies.sharded import ShardedCheckpoints, check_names, distinct

if TYPE_CHECKING:
    from torch.distributed.fsdp import OffloadPolicy

# FSDP2 and DTensor are imported lazily: every command imports this class.
_TYPES = {"bfloat16": torch.bfloat16, "float32": torch.float32}


class MeshShape(NamedTuple):
    """Processes along each axis of the device mesh, the outermost first."""

    replicate: int
    """Groups that hold the same parameters and read different data."""
    shard: int
    """Processes that parameters are sharded over, which read different data."""
    tensor: int
    """Processes that layers are split over, which read the same data."""

    @property
    def data(self) -> int:
        """Data-parallel processes."""
        return self.replicate * self.shard


class FSDP2Strategy(ShardedCheckpoints, ModelParallelStrategy):
    """Shards parameters, gradients and optimizer state over processes by the model's parallel plan.

    Processes form a mesh of `replicate x shard x tensor`: neighboring ranks share a tensor-parallel group, those of
    the shard dimension hold shards of the parameters, and replicas hold copies (hybrid sharding).
    """

    def __init__(
        self,
        tensor_parallel_size: int | Literal["auto"] = 1,
        shard_size: int | Literal["all", "node"] = "all",
        param_dtype: Literal["bfloat16", "float32"] | None = None,
        reduce_dtype: Literal["bfloat16", "float32"] = "float32",
        cpu_offload: bool = False,
        reshard_after_forward: bool = True,
        activation_checkpointing: bool = False,
        async_checkpoints: bool = True,
    ) -> None:
        """Sets how the model is distributed.

        Args:
            tensor_parallel_size: processes that split each layer; auto: all of a node.
            shard_size: processes that shard the parameters: all, those of a node (hybrid sharding), or a number.
            param_dtype: dtype in which parameters are gathered and used; by default that of trainer.precision.
            reduce_dtype: dtype in which gradients are reduced, with param_dtype.
            cpu_offload: whether parameters and optimizer state stay in the CPU's memory; nothing to do on a CPU.
            reshard_after_forward: whether parameters are freed after the forward pass, and gathered again.
            activation_checkpointing: whether the backward pass recomputes blocks to save memory.
            async_checkpoints: whether checkpoints are written while training continues.
        """
        super().__init__(data_parallel_size="auto", tensor_parallel_size=tensor_parallel_size)
        self._offloading = cpu_offload
        self._asked_tensor, self._asked_shard = tensor_parallel_size, shard_size
        self._settings: dict[str, Any] = {"reshard_after_forward": reshard_after_forward}
        if param_dtype is not None:
            from torch.distributed.fsdp import MixedPrecisionPolicy

            self._settings["mp_policy"] = MixedPrecisionPolicy(
                param_dtype=_TYPES[param_dtype], reduce_dtype=_TYPES[reduce_dtype]
            )
        self._activation_checkpointing = activation_checkpointing
        self._async_checkpoints = async_checkpoints

    def mesh_shape(self, devices_per_node: int, num_nodes: int) -> MeshShape:
        """Sizes of the mesh's axes.

        Raises:
            ValueError: if the sizes do not divide the number of processes, naming what would.
        """
        world_size = devices_per_node * num_nodes
        tensor = devices_per_node if self._asked_tensor == "auto" else self._asked_tensor
        if tensor < 1 or world_size % tensor:
            raise ValueError(
                f"trainer.strategy's tensor_parallel_size is {tensor} and does not divide the {world_size} processes; "
                f"{_divisors(world_size)} would"
            )
        data = world_size // tensor
        requested = {"all": data, "node": max(devices_per_node // tensor, 1)}.get(
            str(self._asked_shard), self._asked_shard
        )
        shard_size = int(requested)
        if shard_size < 1 or data % shard_size:
            raise ValueError(
                f"trainer.strategy's shard_size is {shard_size} and does not divide the {data} data-parallel ranks; "
                f"{_divisors(data)} would"
            )
        return MeshShape(replicate=data // shard_size, shard=shard_size, tensor=tensor)

    def data_parallel_size(self, devices_per_node: int, num_nodes: int) -> int:
        """Number of data-parallel processes."""
        return self.mesh_shape(devices_per_node, num_nodes).data

    @property
    def _tensor_size(self) -> int:
        return self.device_mesh["tensor"].size()

    @property
    def distributed_sampler_kwargs(self) -> dict[str, Any]:
        """Rank among the data-parallel processes, and their number."""
        size = self._tensor_size
        return {"num_replicas": self.world_size // size, "rank": self.global_rank // size}

    def setup_environment(self) -> None:
        """Connects the processes and builds the device mesh."""
        assert self.accelerator is not None
        assert self.lightning_module is not None
        self.accelerator.setup_device(self.root_device)
        self._setup_distributed()
        shape = self.mesh_shape(self.num_processes, self.num_nodes)
        self._device_mesh = init_device_mesh(self.root_device.type, tuple(shape), mesh_dim_names=MeshShape._fields)
        self.lightning_module._device_mesh = self._device_mesh
        self.open_writer(self._async_checkpoints)

    def _get_process_group_backend(self) -> str:
        # Offloaded parameters are reduced on the CPU.
        return (
            "cpu:gloo,cuda:nccl"
            if self._offloading and self.root_device.type == "cuda"
            else super()._get_process_group_backend()
        )

    def setup(self, trainer: Trainer) -> None:
        """Distributes the model by its plan, then sets up the rest."""
        from lmrecipes.strategies.parallelize import checkpoint_activations, shard, split_tensors

        module: Any = self.lightning_module
        network, plan = module.network, module.parallel_plan
        plan.check(self._tensor_size)
        network.to(self.root_device)
        if self._tensor_size > 1:
            split_tensors(network, plan, self.device_mesh["tensor"])
        if self._activation_checkpointing:
            checkpoint_activations(network, plan)
        if data := self._data_mesh():
            shard(network, plan, data, offload_policy=self._offload_policy(), **self._settings)
        plugin: Any = self.precision_plugin
        plugin.clip_grad_by_norm = partial(_clip_by_norm, plugin)
        plugin.clip_grad_by_value = partial(_clip_by_value, plugin)
        super().setup(trainer)

    def _offload_policy(self) -> OffloadPolicy:
        from torch.distributed.fsdp import CPUOffloadPolicy, OffloadPolicy

        # On CPU there is nothing to offload, and CPUOffloadPolicy requires a GPU.
        return CPUOffloadPolicy() if self._offloading and self.root_device.type != "cpu" else OffloadPolicy()

    def _data_mesh(self) -> DeviceMesh | None:
        if self.device_mesh["replicate"].size() > 1:
            return self.device_mesh["replicate", "shard"]
        # Even with one data rank under tensor parallelism: optimizers reject a mix of DTensors and tensors.
        return self.device_mesh["shard"] if self.world_size > 1 else None

    @property
    def _network(self) -> nn.Module:
        assert self.lightning_module is not None
        network: nn.Module = self.lightning_module.network
        return network

    @contextmanager
    def block_backward_sync(self) -> Iterator[None]:
        """Accumulates gradients locally until the last micro-batch of a step."""
        from lmrecipes.strategies.parallelize import synchronize_gradients

        synchronize_gradients(self._network, False)
        try:
            yield
        finally:
            synchronize_gradients(self._network, True)

    # Checkpoints.

    def lightning_module_state_dict(self) -> dict[str, Any]:
        """Parameters and buffers; of DTensors this process's shards."""
        assert self.lightning_module is not None
        return self.lightning_module.state_dict()

    def optimizer_state(self, optimizer: Optimizer) -> dict[str, Any]:
        """The optimizer's state by parameter names."""
        assert self.lightning_module is not None
        return named_states(self.lightning_module, getattr(optimizer, "_optimizer", optimizer))

    def load_folder(self, path: Path) -> dict[str, Any]:
        """Loads this process's shards."""
        assert self.lightning_module is not None
        sizes = sharded.sizes(path)
        targets = {f"{WEIGHTS}{name}": value for name, value in distinct(self.lightning_module).items()}
        for optimizer in self.optimizers:
            targets |= self._empty_states(optimizer, sizes)
        shapes = {name: tensor.shape for name, tensor in targets.items()}
        check_names(path, shapes, {name: size for name, (size, _) in sizes.items()})
        sharded.read_into(targets, path, self.writer.group)
        return sharded.read_rest(path)

    def _empty_states(self, optimizer: Optimizer, sizes: dict[str, Any]) -> dict[str, Tensor]:
        """Empty optimizer state, sharded like its parameters."""
        assert self.lightning_module is not None
        targets = {}
        for name, parameter in parameters_of(self.lightning_module, optimizer):
            prefix = f"{STATES}{name}."
            for saved in (key for key in sizes if key.startswith(prefix)):
                size, dtype = sizes[saved]
                room = room_for(optimizer, parameter, size, dtype)
                optimizer.state[parameter][saved.removeprefix(prefix)] = targets[saved] = room
        return targets


def _divisors(number: int) -> str:
    return " or ".join(str(n) for n in range(1, number + 1) if number % n == 0)


def _clip_by_norm(plugin: Any, optimizer: Optimizer, clip_val: float) -> None:
    clip_by_global_norm(plugin.main_params(optimizer), clip_val)


def _clip_by_value(plugin: Any, optimizer: Optimizer, clip_val: float) -> None:
    for parameter in plugin.main_params(optimizer):
        if parameter.grad is not None:
            local(parameter.grad).clamp_(-clip_val, clip_val)
