"""One folder per model, and what they share."""
