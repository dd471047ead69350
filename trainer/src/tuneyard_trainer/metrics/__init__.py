"""Metrics of evaluation: one file each."""
