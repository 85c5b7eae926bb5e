"""A collector's successor is synced before its predecessor ends: books go on, none is lost."""

from __future__ import annotations

import itertools
import os
import signal
import tempfile
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import pytest

from coinspace._ext.message import STATE, Message
from coinspace.bus.segments import read_journal
from coinspace.clock import SECOND_NS
from coinspace.process import STANDBY
from tests.flow.exchanges import MARKETS, Exchanges
from tests.waiting import wait_for

NAMES = [("orderbook", "upbit"), ("orderbook", "binance")]
START_S = 120.0
WAITS = "standby: waits"


@pytest.fixture
def exchanges() -> Iterator[Exchanges]:
    # the length of socket paths is limited
    with tempfile.TemporaryDirectory(prefix="cs-") as folder:
        running = Exchanges(Path(folder), *NAMES, COINSPACE_JOURNAL__ENABLED="true")
        try:
            yield running
        finally:
            running.close()


def lives(exchanges: Exchanges, exchange: str) -> list[list[Message]]:
    """Return the messages of each life of a collector, in order."""
    folder = exchanges.folder / "journal" / f"orderbook-collector-{exchange}"
    found: dict[int, list[Message]] = defaultdict(list)
    for message in read_journal(folder):
        found[message.epoch].append(message)
    return [found[epoch] for epoch in sorted(found)]


def books(life: list[Message]) -> set[str]:
    return {message.market for message in life if message.kind_name == "orderbook"}


def states(life: list[Message]) -> list[str]:
    return [message.json()["state"] for message in life if message.kind == STATE]


def waiting(exchanges: Exchanges, count: int) -> None:
    """Start `count` standbys in all and wait until the newest ones could take over."""
    exchanges.environment[STANDBY] = "1"
    exchanges.collectors += [
        exchanges.spawn(f"{stream}-collector", exchange) for stream, exchange in NAMES
    ]
    wait_for(
        lambda: exchanges.text.count(WAITS) == count,
        "standbys that are synced",
        limit_s=START_S,
        shown=lambda: exchanges.text[-3000:],
    )


def led(exchanges: Exchanges, number: int) -> bool:
    """Return whether each collector has had so many lives and published all books in the last."""
    for _, exchange in NAMES:
        found = lives(exchanges, exchange)
        if len(found) != number or books(found[-1]) != set(MARKETS[exchange]):
            return False
    return True


@pytest.mark.timeout(300)
def test_a_successor_publishes_all_books_at_once(exchanges: Exchanges) -> None:
    exchanges.until_synced([0] * len(NAMES), START_S)
    first = list(exchanges.collectors)
    waiting(exchanges, len(NAMES))
    for process in first:
        process.send_signal(signal.SIGUSR1)
    assert [process.wait(60) for process in first] == [0, 0]
    wait_for(lambda: led(exchanges, 2), "books of the successors", limit_s=START_S)
    second = exchanges.collectors[len(NAMES) :]
    # a process that ends without a farewell is followed, too
    waiting(exchanges, 2 * len(NAMES))
    for process in second:
        os.kill(process.pid, signal.SIGKILL)
    wait_for(lambda: led(exchanges, 3), "books after a sudden end", limit_s=START_S)
    for _, exchange in NAMES:
        found = lives(exchanges, exchange)
        for life in found:
            last: dict[bytes, int] = {}
            for message in life:
                assert message.sequence == last.get(message.topic, 0) + 1
                last[message.topic] = message.sequence
        assert "disconnected" not in states(found[0])
        for life in found[1:]:
            # each market's state and book come first, and no connection is seen to be made
            count = len(MARKETS[exchange])
            begin = life[: 2 * count]
            assert states(begin) == ["synced"] * count
            assert books(begin) == set(MARKETS[exchange])
        at_s = [
            [m.published_ns / SECOND_NS for m in life if m.kind_name == "orderbook"]
            for life in found
        ]
        pauses_s = [round(new[0] - old[-1], 3) for old, new in itertools.pairwise(at_s)]
        print(exchange, "seconds without a book:", pauses_s)
