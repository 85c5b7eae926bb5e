"""Reasons why a figure misses its goal, where the benchmark itself does not show them.

Each text names a measurement; it is shown in RESULTS.md for a gate or goal that was not reached.
`make report` fails where one is missing. A name in braces is replaced by the row's own figure: a
candidate's ns, a figure or a check.
"""

from __future__ import annotations

# (stage, beginning of the case, part of the figure) -> reason
OBSTACLES: dict[tuple[str, str, str], str] = {
    ("parse", "bithumb-book beside", ""): (
        "Measured with 1 to 30 units, one costs us 14 ns in both formats, whatever its numbers'"
        " length; On-Demand 64 in DEFAULT and 53 in Bithumb's shorter text. Around its units a"
        " frame takes us 87 ns, 40 of them the call from Python, which 15 units share where DEFAULT"
        " has 30."
    ),
    ("parse", "upbit-book-simple beside", ""): (
        "SIMPLE saves bytes of keys, which cost us nothing: the templates compare them while the"
        " numbers are read ({CoinSpace, upbit-book-simple} ns a frame, DEFAULT {CoinSpace,"
        " upbit-book}). The libraries read each key: {orjson.loads, upbit-book-simple} ns against"
        " {orjson.loads, upbit-book}."
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
        "See upbit-book-simple for what ours consists of, {CoinSpace} ns here; cryptofeed → numpy"
        " takes {cryptofeed → numpy}."
    ),
    ("parse", "Binance depth update and book", ""): (
        "See binance-diff for what our parser consists of, {CoinSpace, parser alone} ns here;"
        " cryptofeed takes {cryptofeed} and ccxt pro {ccxt pro} ns a frame."
    ),
    ("index", "merge + index", "numpy"): (
        "A merge of pairs that is read in five minutes replaced two vectorised ones. They took 39"
        " µs a value at 3 × 1,000 levels and 2.6 µs at 3 × 30; the aggregator makes five values a"
        " second and asset."
    ),
    ("end to end", "", ""): (
        "A frame takes {CoinSpace without its journal} ns without the journal, and receiving,"
        " parsing and libzmq alone {summed stage limits} in the same rounds: a hundredth of"
        " cryptofeed's cost would be less than these limits together. With the journal it takes"
        " {CoinSpace}; most of that is page faults in the thread that prepares its segments"
        " (schedstat); populating them at once and writing them in blocks of 4 MiB were measured"
        " and cost as much or more."
    ),
    ("parse", "allocations", "bus"): (
        "One allocation a message is libzmq's own, for the part of header and payload; the rest is"
        " its queues, which grow by a block now and then. Its own thread makes"
        " {bus upbit-book-simple, libzmq's own thread} more, of the subscriber's messages."
    ),
    ("endpoint", "1000 ", ""): (
        "A delivery takes {CoinSpace} ns against {one pre-framed write} of the bare write, which is"
        " mostly the kernel's: the rest is the server's own, for making events and walking over"
        " clients, each with a bound to look at."
    ),
    ("endpoint", "latest value", ""): (
        "{CoinSpace} ns a request against {bare ASGI} of the bare handler: what is above it is"
        " routing, access and rate limit."
    ),
    ("latency", "", ""): (
        "Medians of the legs, two processors: the socket 35 µs, three hops of 60 to 75, in the"
        " aggregator 65 and in the calculator 125 until its record is sent. The same work takes 20"
        " and 50 µs when it is done again and again: between two frames five processes share two"
        " processors, and Python finds its caches cold."
    ),
}


def obstacle_of(stage: str, case: str, what: str) -> str:
    """Return the most specific reason for a figure, "" without one."""
    for (of_stage, of_case, part), text in OBSTACLES.items():
        if stage == of_stage and case.startswith(of_case) and part in what:
            return text
    return ""
