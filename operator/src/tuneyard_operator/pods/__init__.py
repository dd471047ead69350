"""What all pods of the operator have in common."""
