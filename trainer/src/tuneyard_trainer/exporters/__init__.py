"""What makes artifacts of a trained model."""
