"""How old something is, and whether that is too old to rely on.

Two clocks judge. The wall clock gives the age that is shown: now less the time that the value
carries. It is shown as it is: below zero the value's time lies in the future of this host's clock.
The monotonic clock says how long ago the value arrived here, which no step of a wall clock changes.
"""

from __future__ import annotations

from typing import Literal

# how far a value's time may lie in the future: clocks of several hosts differ a little
FUTURE_MS = 1000

# old: its time is too long ago. future: its time lies in the future, so that nobody knows its age.
# silent: it arrived too long ago.
StaleReason = Literal["old", "future", "silent"]


def stale_reason(age_ms: int, heard_ms: int, limit_ms: int) -> StaleReason | None:
    """Return why a value is stale, None = it is not.

    Args:
        age_ms: by the wall clock, below 0 = in the future.
        heard_ms: since its arrival, by the monotonic clock.
    """
    if age_ms < -FUTURE_MS:
        return "future"
    if age_ms > limit_ms:
        return "old"
    return "silent" if heard_ms > limit_ms else None
