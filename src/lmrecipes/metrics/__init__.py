"""Figures of merit: plain functions and torchmetrics."""
