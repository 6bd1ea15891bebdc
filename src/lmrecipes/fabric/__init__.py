"""A recipe under Fabric: a training loop to read and modify."""
