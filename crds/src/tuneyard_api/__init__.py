"""The tuneyard API."""
