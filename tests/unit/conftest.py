"""Examples of Hypothesis have no deadline: how fast they are is the machine's affair."""

from hypothesis import settings

settings.register_profile("unhurried", deadline=None)
settings.load_profile("unhurried")
