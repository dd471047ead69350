"""The tuneyard command."""
