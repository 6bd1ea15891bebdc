"""Tokenized corpora on disk: made once, memory-mapped ever after."""
