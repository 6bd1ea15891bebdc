"""Questions in SQuAD format: files, windows, batches, answers."""
