"""Checkpoints on disk: plain files and sharded folders, written atomically, verified when read."""
