"""Labelled examples: questions, natural language inference."""
