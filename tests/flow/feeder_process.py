"""`python -m tests.flow.feeder_process PROCESS RATE FIRST START`: a Feeder that runs until SIGTERM.

RATE messages a second and market, from message FIRST on, through the real publisher and journal;
their times begin at START, ns.
SIGUSR1 adds the messages of ten minutes within half a minute.
"""

import asyncio
import signal
import sys
from functools import partial

from coinspace.bus.publisher import open_publisher
from coinspace.config import load
from coinspace.process import Process, run
from tests.flow.feeding import Feeder

STEP_S = 0.01
BURST_S = 30.0
# what the burst adds to the rate: 600 s in 30 s
BURST_RATE = 20


async def main(process: Process, rate: float, first: int, start_ns: int) -> None:
    """Publish at a steady rate, catching up where the timer was late."""
    publisher = open_publisher(process.name, process.settings, process.started_ns)
    process.counters = lambda: {**publisher.counters(), "sent": feeder.sent}
    feeder = Feeder(publisher, process.name, start_ns=start_ns)
    feeder.sent = first
    loop = asyncio.get_running_loop()
    publisher.start_heartbeats(loop)
    feeder.state("synced")
    bursts: list[float] = []
    loop.add_signal_handler(signal.SIGUSR1, lambda: bursts.append(loop.time()))
    process.ready()
    began = loop.time()
    while not process.stopping.is_set():
        now = loop.time()
        burst_s = sum(min(now - since, BURST_S) for since in bursts)
        due = first + int((now - began + burst_s * BURST_RATE) * rate)
        feeder.send(max(0, min(due - feeder.sent, 1000)))
        await asyncio.sleep(STEP_S)
    publisher.heartbeat()
    # subscribers learn of the tail before the socket goes
    await asyncio.sleep(0.2)
    publisher.close()


if __name__ == "__main__":
    name, rate, first, start = sys.argv[1:]
    run(name, load(), partial(main, rate=float(rate), first=int(first), start_ns=int(start)))
