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
