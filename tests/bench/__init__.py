"""Benchmarks of the operator against a real API server. Never run in CI; docs/benchmarks.md has the figures."""
