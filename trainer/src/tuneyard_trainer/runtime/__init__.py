"""What runs a stage: context, commit, worker processes, rendezvous, progress, checkpoints."""
