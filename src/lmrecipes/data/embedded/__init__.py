"""Corpora that come with the package: no download."""
