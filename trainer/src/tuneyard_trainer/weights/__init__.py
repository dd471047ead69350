"""Files of weights, for workers."""
