"""The demo: the whole chain, from a FineTuneJob to a served model, told step by step."""
