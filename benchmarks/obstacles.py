"""What stands between a figure and its goal, where the benchmark itself does not say it.

Each text names a measurement; it is shown in RESULTS.md for a gate or goal that was not reached.
`make report` fails where one is missing.
"""

from __future__ import annotations

# (stage, beginning of the case, part of the figure) -> what stands in the way
OBSTACLES: dict[tuple[str, str, str], str] = {
    ("parse", "bithumb-book", "simdjson On-Demand"): (
        "On-Demand runs in one loop of C++, ours is called from Python for each frame: of 4,465"
        " instructions 1,440 do not depend on the number of levels (callgrind), the call, the keys"
        " and the times, for half as many numbers as Upbit's frames have."
    ),
    ("parse", "bithumb-book", ""): (
        "50 instructions a number are in the loop over the units, 24 around it (callgrind; 12 at"
        " Upbit): keys, the time in µs and the call from Python, for half as many numbers."
    ),
    ("parse", "upbit-book", ""): (
        "Three quarters of the instructions of a frame are in the one loop that reads two numbers"
        " at a time, 51 a number (callgrind), 3.5 a cycle; the rest is keys, times and the call."
        " More numbers to a vector need more than x86-64-v2."
    ),
    ("parse", "binance-d", ""): (
        "50 of 66 to 68 instructions a number are in the loop over the pairs (callgrind); the rest"
        " is keys, ids and the call from Python."
    ),
    ("parse", "binance-t", ""): (
        "Few numbers and many keys: comparing keys and reading and checking values is half of the"
        " instructions, the call from Python 150 (callgrind)."
    ),
    ("parse", "upbit-t", ""): (
        "A trade's 18 fields take 1,460 of 2,100 instructions, 81 a field with its key and all that"
        " is checked of values, read or skipped; the call from Python 150 (callgrind). Sizes that"
        " change their length cost a branch that was not foreseen."
    ),
    ("parse", "Upbit SIMPLE book", ""): (
        "See upbit-book-simple for what ours consists of; cryptofeed → numpy takes 120 to 163 µs on"
        " the processors measured."
    ),
    ("parse", "Binance depth update, peers", ""): (
        "See binance-diff for what ours consists of; cryptofeed takes 78 to 107 µs and ccxt pro 70"
        " to 95 µs a frame on the processors measured."
    ),
    ("end to end", "", ""): (
        "A frame takes 2.4 to 2.5 µs without the journal, 2.0 of them what receiving, parsing and"
        " libzmq take alone, in the same rounds: a hundredth of cryptofeed's 137 µs would be less"
        " than these limits together. The journal adds 0.7 to 0.9 µs, most of it page faults in the"
        " thread that prepares its segments (schedstat); populating them at once and writing them"
        " in blocks of 4 MiB were measured and cost as much or more."
    ),
    ("parse", "allocations", "bus"): (
        "One allocation a message is libzmq's own, for the part of header and payload; the 0.02 are"
        " its queues, which grow by a block now and then."
    ),
    ("endpoint", "1000 ", ""): (
        "A delivery takes 15 µs (SSE) and 17 (WebSocket) against 10 and 11 of the bare write, which"
        " is mostly the kernel's: 5 to 6 µs are the server's own, for making events and walking"
        " over clients, each with a bound to look at. 1.2 to 1.6 were measured on one day."
    ),
    ("endpoint", "latest value", ""): (
        "33.2 µs a request against 30.5 of the bare handler: 2.7 µs for routing, access and rate"
        " limit. 1.08 to 1.19 were measured on one day."
    ),
    ("latency", "", ""): (
        "Medians of the legs, two processors: the socket 35 µs, three hops of 60 to 75, in the"
        " aggregator 65 and in the calculator 125 until its record is sent. The same work takes 20"
        " and 50 µs when it is done again and again: between two frames five processes share two"
        " processors, and Python finds its caches cold. Pinning the processes changes little."
    ),
}


def obstacle_of(stage: str, case: str, what: str) -> str:
    """Return the most specific text for a figure, "" where there is none."""
    for (of_stage, of_case, part), text in OBSTACLES.items():
        if stage == of_stage and case.startswith(of_case) and part in what:
            return text
    return ""
