"""How processes are arranged into replicas, shards and tensor-parallel groups."""

import pytest

from lmrecipes.strategies import FSDP2Strategy


@pytest.mark.parametrize(
    ("requested", "shape"),
    [
        ({}, (1, 16, 1)),
        ({"shard_size": "node"}, (2, 8, 1)),
        ({"shard_size": 4}, (4, 4, 1)),
        ({"tensor_parallel_size": 2}, (1, 8, 2)),
        ({"tensor_parallel_size": 2, "shard_size": "node"}, (2, 4, 2)),
        ({"tensor_parallel_size": "auto"}, (1, 2, 8)),
        # Tensor-parallel groups never span two shards: a node has room for only one.
        ({"tensor_parallel_size": 8, "shard_size": "node"}, (2, 1, 8)),
    ],
)
def test_two_nodes_of_eight_processes_have_the_requested_layout(requested, shape):
    assert FSDP2Strategy(**requested).mesh_shape(8, 2) == shape
