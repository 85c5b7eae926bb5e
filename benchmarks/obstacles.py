"""What stands between a figure and its goal, where the benchmark itself does not say it.

Each text names a measurement; it is shown in RESULTS.md for a gate or goal that was not reached.
`make report` fails where one is missing.
"""

from __future__ import annotations

# (stage, beginning of the case, part of the figure) -> what stands in the way
OBSTACLES: dict[tuple[str, str, str], str] = {
    ("parse", "bithumb-book", "simdjson On-Demand"): (
        "On-Demand runs in one loop of C++, ours is called from Python for each frame: of 347 ns"
        " some 155 do not depend on the number of levels (line through the growth in levels), the"
        " call, the keys and the times, for half as many numbers as Upbit's frames have."
    ),
    ("parse", "bithumb-book", ""): (
        "50 instructions a number are in the loop over the units, 30 around it (callgrind; 15 at"
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
        "Few numbers and many keys: finding keys and reading and checking values is over half of"
        " the instructions, the call from Python 150 (callgrind)."
    ),
    ("parse", "upbit-t", ""): (
        "A trade's 18 keys take 1,150 of 2,640 instructions, 64 a key with what is checked of the"
        " 9 values that are skipped, its 9 fields 800, the call from Python 150 (callgrind)."
    ),
    ("parse", "Upbit SIMPLE book", ""): (
        "See upbit-book-simple for what ours consists of; cryptofeed → numpy takes 120 to 163 µs on"
        " the processors measured."
    ),
    ("parse", "Binance depth update, peers", ""): (
        "See binance-diff for what ours consists of; cryptofeed takes 78 to 107 µs and ccxt pro 70"
        " to 95 µs a frame on the processors measured."
    ),
    ("bus", "1 KB, ipc", "one part"): (
        "Three parts cost libzmq itself 1.36 times what one part does, both called from C (2,560"
        " against 1,884 ns, least of five rounds; ours 2,649): two thirds of the CPU time are its"
        " own threads' (schedstat), which queue, encode and decode each part."
    ),
    ("end to end", "", ""): (
        "Of 4.3 µs a frame at 130,000 frames a second the loop's thread takes 2.3, libzmq's 1.2,"
        " and 0.8 the one that prepares the journal's segments (schedstat). 40 % of the loop's"
        " samples are in the reading of levels: 0.5 µs a frame for 64 warm frames, as in the limit,"
        " 0.6 to 0.8 for 4,096 and more. The rest is flat: the kernel's copy 8 %, the clock 4 %,"
        " the journal 2.5 %. A segment costs 270 ns a message in page faults, 130 at its end;"
        " populating at once and writing it in blocks of 4 MiB were measured and cost as much in"
        " the pipeline (0.8 µs) or more (1.5). The peers differ by processor: orjson + numpy +"
        " send_multipart takes 32 µs on Zen 4 against 61 on the Xeon where ours took 4.3."
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
