"""Wall-clock time in ns since the epoch, the only time unit between processes."""

import time
from collections.abc import Callable

SECOND_NS = 1_000_000_000
MILLISECOND_NS = 1_000_000

Clock = Callable[[], int]

now_ns: Clock = time.time_ns
