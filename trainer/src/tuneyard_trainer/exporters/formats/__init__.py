"""The artifact formats: one module each, with a FORMAT."""
