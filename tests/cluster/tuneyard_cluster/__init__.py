"""A kind cluster for tuneyard's tests on any Linux host, with or without a container registry.

Standard library only: it runs before anything is installed. `python3 tests/cluster --help` lists the verbs.
"""
