"""Metrics: plain functions and torchmetrics."""
