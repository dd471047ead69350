"""What one part of tuneyard hands to another, as pydantic models.

results: what a stage writes into its commit mark. termination: what the operator reads of a container that has ended.
requests: what a stage asks of a worker process, and what that answers. progress: what a running stage serves.
artifact: the manifest of a published directory. serving: what the operator asks of an engine.
"""
