"""`python -m tests.flow.feeder_process PROCESS RATE FIRST`: a Feeder that runs until SIGTERM.

RATE messages a second and market, from message FIRST on, through the real publisher and journal.
"""

import asyncio
import sys
from functools import partial

from coinspace.bus.publisher import open_publisher
from coinspace.config import load
from coinspace.process import Process, run
from tests.flow.feeding import Feeder

STEP_S = 0.01


async def main(process: Process, rate: float, first: int) -> None:
    """Publish at a steady rate, catching up where the timer was late."""
    publisher = open_publisher(process.name, process.settings, process.started_ns)
    process.counters = lambda: {**publisher.counters(), "sent": feeder.sent}
    feeder = Feeder(publisher, process.name)
    feeder.sent = first
    loop = asyncio.get_running_loop()
    publisher.start_heartbeats(loop)
    feeder.state("synced")
    process.ready()
    began = loop.time()
    while not process.stopping.is_set():
        due = first + int((loop.time() - began) * rate)
        feeder.send(max(0, min(due - feeder.sent, 1000)))
        await asyncio.sleep(STEP_S)
    publisher.heartbeat()
    # subscribers learn of the tail before the socket goes
    await asyncio.sleep(0.2)
    publisher.close()


if __name__ == "__main__":
    name, rate, first = sys.argv[1:]
    run(name, load(), partial(main, rate=float(rate), first=int(first)))
