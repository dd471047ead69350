"""A kind cluster for tuneyard's tests on any Linux host, with or without a container registry.

It needs only the standard library, and runs before any installation. `python3 tests/cluster --help` lists the verbs.
"""
