"""The arithmetic of the latency benchmark and of the server that it is fed by."""

from __future__ import annotations

import time
from itertools import islice

from benchmarks.latency import Arrivals
from benchmarks.stream import paced


def test_a_frame_waits_for_the_first_value_that_knows_it() -> None:
    arrivals = Arrivals()
    # frame i is received at i + 1 ms and sent 0.1 ms before
    sent_ns = [1_000_000 * (i + 1) - 100_000 for i in range(8)]
    arrivals.numbers = {1_000 * (i + 1): i for i in range(8)}
    # frame 2 opens the window, the tick at frame 5 takes in 3 and 4, 6 has its own, 7 none
    arrivals.values = [(3_000_000, 3_050_000), (6_000_000, 6_100_000), (7_000_000, 7_020_000)]
    assert arrivals.latencies(sent_ns) == [2_200_000, 1_200_000, 200_000, 120_000]


def test_a_value_of_an_unknown_frame_is_left_out() -> None:
    arrivals = Arrivals()
    arrivals.numbers = {1_000: 0, 2_000: 1}
    arrivals.values = [(1_000_000, 1_000_500), (1_500_000, 1_500_500), (2_000_000, 2_000_500)]
    assert arrivals.latencies([0, 1_999_000]) == [1_500]


def test_pacing_sleeps_between_messages() -> None:
    started, used = time.monotonic(), time.thread_time()
    assert list(islice(paced(1000), 101)) == list(range(101))
    took = time.monotonic() - started
    assert took >= 0.099
    # a loop that polls for what is due uses all of it
    assert time.thread_time() - used < 0.5 * took
