"""The stages of a FineTuneJob."""
