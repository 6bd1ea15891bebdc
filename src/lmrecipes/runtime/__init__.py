"""The process: its rank, its output, its allocator, and atomic writes."""
