"""The demo: the whole chain, from a FineTuneJob to a served model, step by step."""
