"""nginx in front of the engine."""
