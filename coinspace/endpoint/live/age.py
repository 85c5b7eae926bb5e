"""How old a value is, and whether it is too old to rely on.

The wall clock gives the age that is shown: now minus the value's time. A negative age means that
the value's time is in the future of this host's clock. The monotonic clock gives the time since the
value arrived here, which a step of a wall clock does not change.
"""

from __future__ import annotations

from typing import Literal

# how far a value's time may be in the future: clocks of several hosts differ a little
FUTURE_MS = 1000

# old: the value's time is too long ago. future: it is in the future, so that the age is unknown.
# silent: the value arrived too long ago.
StaleReason = Literal["old", "future", "silent"]


def stale_reason(age_ms: int, heard_ms: int, limit_ms: int) -> StaleReason | None:
    """Return why a value is stale, None = it is not.

    Args:
        age_ms: by the wall clock, below 0 = in the future.
        heard_ms: since the value's arrival, by the monotonic clock.
    """
    if age_ms < -FUTURE_MS:
        return "future"
    if age_ms > limit_ms:
        return "old"
    return "silent" if heard_ms > limit_ms else None
