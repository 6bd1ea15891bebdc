"""Random numbers by counter, mixtures of sources, buckets of lengths."""
