"""How processes are laid out for what is asked: replicas, shards and parts of layers."""

import pytest

from lmrecipes.strategies import FSDP2Strategy


@pytest.mark.parametrize(
    ("asked", "shape"),
    [
        ({}, (1, 16, 1)),
        ({"shard_size": "node"}, (2, 8, 1)),
        ({"shard_size": 4}, (4, 4, 1)),
        ({"tensor_parallel_size": 2}, (1, 8, 2)),
        ({"tensor_parallel_size": 2, "shard_size": "node"}, (2, 4, 2)),
        ({"tensor_parallel_size": "auto"}, (1, 2, 8)),
        # No part of a layer is on two shards: a node has room for one only.
        ({"tensor_parallel_size": 8, "shard_size": "node"}, (2, 1, 8)),
    ],
)
def test_two_nodes_of_eight_processes_are_laid_out_as_asked(asked, shape):
    assert FSDP2Strategy(**asked).mesh_shape(8, 2) == shape
