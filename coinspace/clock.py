"""Two clocks. Both count in ns.

`now_ns` is the wall clock: ns since the epoch, for what is published, stored or compared with times
of another host. It can step in either direction. `monotonic_ns` never steps: durations, deadlines,
back-offs and ages use it. Its values mean nothing to another host, nor after a restart of this one.
"""

import time
from collections.abc import Callable

SECOND_NS = 1_000_000_000
MILLISECOND_NS = 1_000_000
MINUTE_NS = 60 * SECOND_NS
HOUR_NS = 60 * MINUTE_NS
DAY_NS = 24 * HOUR_NS

Clock = Callable[[], int]

now_ns: Clock = time.time_ns
monotonic_ns: Clock = time.monotonic_ns

# the wall clock was set when it moved this much more or less than the monotonic clock
STEP_NS = SECOND_NS // 2
# a longer pause between two readings would look like a step: read again
_READING_NS = 10 * MILLISECOND_NS
_READINGS = 5


class ClockSteps:
    """Notices that the wall clock was set, by comparing it with the monotonic clock."""

    def __init__(self, wall: Clock = now_ns, monotonic: Clock = monotonic_ns) -> None:
        self._wall = wall
        self._monotonic = monotonic
        self._offset_ns = self._read()

    def look(self) -> int:
        """Return by how many ns the wall clock was set since the last call; 0 = it was not set."""
        before, self._offset_ns = self._offset_ns, self._read()
        by_ns = self._offset_ns - before
        return by_ns if abs(by_ns) >= STEP_NS else 0

    def _read(self) -> int:
        for _ in range(_READINGS):
            before, wall = self._monotonic(), self._wall()
            if self._monotonic() - before < _READING_NS:
                break
        return wall - before


# (digits, factor, divisor to ms) of a present time in s, µs and ns; a time in ms has 13 digits
_UNITS = ((10, 1_000, 1), (16, 1, 1_000), (19, 1, 1_000_000))


def check_ms(number: int) -> None:
    """Refuse a time of a request that looks like seconds, µs or ns since 1970 instead of ms.

    Raises: ValueError with the number that may have been meant.
    """
    for digits, times, parts in _UNITS:
        if len(str(number)) == digits:
            meant = number * times // parts
            raise ValueError(f"did you mean milliseconds, {meant}?")
