"""Hypothesis draws the same examples in every run, so that a failure is the change's and not the dice's.

They have no deadline: how fast they are is the machine's affair.
"""

from hypothesis import settings

settings.register_profile("repeatable", derandomize=True, deadline=None)
settings.load_profile("repeatable")
