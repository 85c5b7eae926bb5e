"""What stands between a figure and its goal, where the benchmark itself does not say it.

Each text names a measurement; it is shown in RESULTS.md for a gate or goal that was not reached.
`make report` fails where one is missing.
"""

from __future__ import annotations

# (stage, beginning of the case, part of the figure) -> what stands in the way
OBSTACLES: dict[tuple[str, str, str], str] = {
    ("parse", "upbit-book", ""): (
        "79 % of the instructions of a frame are in the one loop that reads its 120 numbers by the"
        " templates, 84 a number (callgrind), at about four a cycle: the processor is full, and two"
        " numbers to a vector need more than x86-64-v2."
    ),
    ("parse", "bithumb-book", ""): (
        "The loop over the numbers takes 75 instructions a number, what is around it 40 (callgrind;"
        " 20 at Upbit): keys, the time in µs and the call from Python, for half as many numbers."
    ),
    ("parse", "binance-d", "instructions"): (
        "86 to 88 instructions a number are in the loop over quoted pairs (callgrind); the rest is"
        " keys, ids and the call from Python."
    ),
    ("parse", "binance-d", ""): (
        "The yardstick is quicker here than where the goal was set: orjson → arrays takes 18.8 µs"
        " for depth20 against 26.9 µs, ours 0.9 against 0.74 µs with more checks; 80 % of ours is"
        " the loop over the pairs (callgrind)."
    ),
    ("parse", "binance-t", ""): (
        "Few numbers and many keys: finding keys and skipping values is over 40 % of the"
        " instructions (callgrind)."
    ),
    ("parse", "upbit-t", ""): (
        "Most of the frame is keys and strings that are skipped: finding keys and skipping values"
        " is 45 % of the instructions of a trade (callgrind)."
    ),
    ("parse", "Upbit SIMPLE book", ""): (
        "cryptofeed → numpy takes 163 µs here against 155 µs where the goal was set, ours 1.3 µs:"
        " see upbit-book-simple for what ours consists of."
    ),
    ("parse", "Binance depth update, peers", ""): (
        "cryptofeed and ccxt pro take 85 to 100 and 70 to 78 µs a frame on this processor, against"
        " 107 and 95 where the goal was set; see binance-diff for what ours consists of."
    ),
    ("end to end", "", ""): (
        "Between the stages stand the wake-up of libzmq's thread, an eventfd write of 0.8 µs a"
        " frame, and the journal: 0.4 µs in the loop's thread and up to 1.7 µs in the one that"
        " prepares segments (sampled stage and journal alone)."
    ),
    ("latency", "", ""): (
        "Aggregator and calculator compute for 0.3 to 0.4 ms a tick between the hops (profile of"
        " the stage index: Python, flat): what lies between the bare hops' median and ours. Two"
        " processors run five processes: pinned to one, they take turns."
    ),
}


def obstacle_of(stage: str, case: str, what: str) -> str:
    """Return the most specific text for a figure, "" where there is none."""
    for (of_stage, of_case, part), text in OBSTACLES.items():
        if stage == of_stage and case.startswith(of_case) and part in what:
            return text
    return ""
