"""A dry run of a whole recipe at toy size."""
