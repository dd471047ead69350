"""Artifacts in S3-compatible storage."""
