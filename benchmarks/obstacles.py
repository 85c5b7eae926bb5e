"""Reasons why a figure misses its goal, where the benchmark itself does not show them.

Each text names a measurement; RESULTS.md shows it for a gate or goal that was not reached.
`make report` fails where one is missing. A name in braces is replaced by the row's own figure: a
candidate's ns, a figure or a check.
"""

from __future__ import annotations

# (stage, beginning of the case, part of the figure) -> reason
OBSTACLES: dict[tuple[str, str, str], str] = {
    ("parse", "bithumb-book beside", ""): (
        "A unit costs CoinSpace 14 ns in both formats. A frame costs 87 ns more, 40 of them for the"
        " call from Python: 15 units share them, in DEFAULT 30. On-Demand takes 64 ns a unit in"
        " DEFAULT, 53 in Bithumb's shorter text (measured with 1 to 30 units)."
    ),
    ("parse", "upbit-book-simple beside", ""): (
        "SIMPLE has shorter keys. They cost CoinSpace almost nothing, because it compares keys"
        " while it reads numbers: {CoinSpace, upbit-book-simple} ns a frame, in DEFAULT {CoinSpace,"
        " upbit-book}. A library reads each key: {orjson.loads, upbit-book-simple} ns, in DEFAULT"
        " {orjson.loads, upbit-book}."
    ),
    ("index", "3 ×", "instructions"): (
        "Most of them are the merge of pairs and the sort of sizes for the size cap (callgrind); a"
        " value of few levels also pays for calls from Python."
    ),
    ("parse", "bithumb-book", ""): (
        "The loop over units takes 50 instructions a number. Keys, the time and the call from"
        " Python take 24 more; at Upbit, with twice the numbers in a frame, 12 (callgrind)."
    ),
    ("parse", "upbit-book", ""): (
        "The loop over units takes 51 instructions a number, three quarters of all, at 3.5 a cycle"
        " (callgrind). To read more numbers at a time, x86-64-v2 is not enough."
    ),
    ("parse", "binance-d", ""): (
        "The loop over levels takes 50 of 67 instructions a number (callgrind); keys, ids and the"
        " call from Python take the others."
    ),
    ("parse", "binance-t", ""): (
        "A frame has few numbers and many keys. Reading and checking keys and values takes half of"
        " the instructions, the call from Python 150 (callgrind)."
    ),
    ("parse", "upbit-t", ""): (
        "18 fields take 1,460 of 2,100 instructions, the call from Python 150 (callgrind). Sizes of"
        " varying length cost a mispredicted branch."
    ),
    ("parse", "Binance depth update and book", ""): (
        "CoinSpace's parser takes {CoinSpace, parser alone} ns a frame, most of them in the loop"
        " over levels; cryptofeed takes {cryptofeed} ns, ccxt pro {ccxt pro}."
    ),
    ("parse", "allocations", "bus"): (
        "libzmq allocates once a message for header and payload, and sometimes a block for its"
        " queues. Its thread allocates {bus upbit-book-simple, libzmq's own thread} times more, for"
        " the subscriber's messages."
    ),
    ("index", "merge + index", "numpy"): (
        "One merge of pairs, which is read in five minutes, replaced two vectorised merges. With"
        " those a value took 39 µs at 3 × 1,000 levels and 2.6 µs at 3 × 30; the aggregator makes"
        " five values a second and asset."
    ),
    ("whole exchanges", "", "PSS"): (
        "45 MB of each process are imported code: configuration (pydantic) 15, numpy 11, aiohttp 8,"
        " structlog 4. The processes share only their libraries. What remains are books, trade ids"
        " and two journal segments per collector."
    ),
    ("end to end", "", ""): (
        "Without its journal CoinSpace takes {CoinSpace without its journal} ns a frame. Receiving,"
        " parsing and libzmq alone take {summed stage limits}, which is more than a hundredth of"
        " cryptofeed's cost. With its journal CoinSpace takes {CoinSpace}: most of the difference"
        " is page faults in the thread that prepares segments. To populate segments at once, or to"
        " write blocks of 4 MiB, was measured and costs as much or more."
    ),
    ("latency", "", ""): (
        "Medians on two processors: the socket 35 µs, three hops 60 to 75 µs each, the aggregator"
        " 65 µs, the calculator 125 µs. The same work takes 20 and 50 µs when it is repeated"
        " without pause: between two frames five processes share two processors, so Python finds"
        " its caches cold."
    ),
    ("endpoint", "1000 ", ""): (
        "A delivery takes {CoinSpace} ns, the bare write {one pre-framed write}, most of it in the"
        " kernel. The difference is the server's: it makes events and checks each client's bounds."
    ),
    ("endpoint", "latest value", ""): (
        "A request takes {CoinSpace} ns, the bare handler {bare ASGI}. The difference is routing,"
        " access and rate limit."
    ),
    ("faults", "", ""): "Other work ran on the machine: its load was {load}.",
}


def obstacle_of(stage: str, case: str, what: str) -> str:
    """Return the most specific reason for a figure, "" without one."""
    for (of_stage, of_case, part), text in OBSTACLES.items():
        if stage == of_stage and case.startswith(of_case) and part in what:
            return text
    return ""
