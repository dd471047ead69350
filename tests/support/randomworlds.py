"""How random worlds are drawn for the property tests of plans.

TUNEYARD_EXAMPLES=2000 draws that many random worlds; without it the same few are drawn every time.
"""

import os
from typing import Final

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st

EXAMPLES: Final = int(os.environ.get("TUNEYARD_EXAMPLES") or 0)
PROFILE: Final = settings(
    max_examples=EXAMPLES or 40,
    derandomize=not EXAMPLES,
    stateful_step_count=60,
    deadline=None,
    database=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
)
# An index into a list whose length is not known when it is drawn.
PICK: Final = st.integers(0, 9)
