"""Two clocks. Both count in ns.

`now_ns` is the wall clock: ns since the epoch, for what is published, stored or compared with times
of another host. It can step in either direction. `monotonic_ns` never steps: durations, deadlines,
back-offs and ages within one process use it. Its values mean nothing to another process.
"""

import time
from collections.abc import Callable

SECOND_NS = 1_000_000_000
MILLISECOND_NS = 1_000_000

Clock = Callable[[], int]

now_ns: Clock = time.time_ns
monotonic_ns: Clock = time.monotonic_ns


# digits of a present time in s, µs and ns, and what makes ms of it; a time in ms has 13
_UNITS = ((10, 1_000, 1), (16, 1, 1_000), (19, 1, 1_000_000))


def check_ms(number: int) -> None:
    """Refuse a time of a request that looks like seconds, µs or ns since 1970 instead of ms.

    Raises: ValueError with the number that may have been meant.
    """
    for digits, times, parts in _UNITS:
        if len(str(number)) == digits:
            meant = number * times // parts
            raise ValueError(f"did you mean milliseconds, {meant}?")
