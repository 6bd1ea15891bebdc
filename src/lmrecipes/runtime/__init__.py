"""The process itself: which rank it is, what it prints, its allocator, files written whole or not at all."""
