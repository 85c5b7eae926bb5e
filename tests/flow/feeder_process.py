"""`python -m tests.flow.feeder_process PROCESS RATE FIRST START`: a Feeder that runs until SIGTERM.

RATE messages a second and market, from message FIRST on, through the real publisher and journal;
their times begin at START, ns. While the data folder holds the file `burst`, twenty times as many
more.
"""

import asyncio
import sys
from functools import partial

from coinspace.bus.publisher import open_publisher
from coinspace.config import load
from coinspace.process import Process, run
from tests.flow.feeding import Feeder

STEP_S = 0.01
BURST = "burst"
BURST_RATE = 20
# so that the messages of ten minutes arrive
BURST_S = 600 / BURST_RATE


async def main(process: Process, rate: float, first: int, start_ns: int) -> None:
    """Publish at a steady rate, catching up where the timer was late."""
    publisher = open_publisher(process.name, process.settings, process.started_ns)
    process.counters = lambda: {**publisher.counters(), "sent": feeder.sent}
    feeder = Feeder(publisher, process.name, start_ns=start_ns)
    feeder.sent = first
    loop = asyncio.get_running_loop()
    publisher.start_heartbeats(loop)
    feeder.state("synced")
    process.ready()
    burst = process.settings.data / BURST
    before, due = loop.time(), 0.0
    while not process.stopping.is_set():
        now = loop.time()
        due += (now - before) * rate * (1 + BURST_RATE * burst.exists())
        before, n = now, min(int(due), 1000)
        feeder.send(n)
        due -= n
        await asyncio.sleep(STEP_S)
    publisher.heartbeat()
    # subscribers learn of the tail before the socket closes
    await asyncio.sleep(0.2)
    publisher.close()


if __name__ == "__main__":
    name, rate, first, start = sys.argv[1:]
    run(name, load(), partial(main, rate=float(rate), first=int(first), start_ns=int(start)))
