"""Builds the images: the catalog, content-hash tags, build contexts, and calls of docker. Standard library only."""
