"""The tuneyard operator."""
