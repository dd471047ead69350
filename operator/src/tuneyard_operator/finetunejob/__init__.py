"""FineTuneJob: one Job per stage, one after the other."""
