"""Training objectives: what is predicted from what, as batches of a step index."""
