"""Hypothesis: the same examples in every run, so that a failure is the change's.

`--hypothesis-profile=search` seeks others, for minutes.
Examples have no deadline: how fast they are is the machine's affair.
"""

from hypothesis import settings

settings.register_profile("repeatable", derandomize=True, deadline=None)
settings.register_profile("search", max_examples=2000, deadline=None)
settings.load_profile("repeatable")
