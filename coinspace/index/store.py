"""Store rows of the index's tools, and add links to the hash chain."""

from __future__ import annotations

import time
from collections.abc import Iterator

from coinspace.clock import now_ns
from coinspace.config import Settings
from coinspace.errors import CoinSpaceError
from coinspace.index import chain
from coinspace.storage import schema
from coinspace.storage.archive import Archive
from coinspace.storage.questdb.address import address
from coinspace.storage.read.query import wait_applied
from coinspace.storage.records import Row
from coinspace.storage.sender import Sender

STORE_TIMEOUT_S = 30.0


def store(settings: Settings, rows: list[Row]) -> None:
    """Store rows and wait until they are stored. Raises: CoinSpaceError after a timeout."""
    sender = Sender(settings, "index-tools")
    sender.start()
    for row in rows:
        sender.row(row.table, symbols=row.symbols, columns=row.columns, at_ns=row.at_ns)
    sender.seal()
    deadline = time.monotonic() + STORE_TIMEOUT_S
    while sender.pending and time.monotonic() < deadline:
        time.sleep(0.02)
    left, trouble = sender.pending, sender.trouble
    sender.abort()
    if left:
        raise CoinSpaceError(f"{left} rows not stored within {STORE_TIMEOUT_S:g} s: {trouble}")


def append_links(settings: Settings) -> int:
    """Add the missing links of closed UTC days. Returns: how many."""
    with schema.connect(address(settings)) as connection:
        early = chain.reopened(chain.stored_links(connection), now_ns())
        if early:
            store(settings, early)
            wait_applied(connection, "index_chain")
        links = chain.stored_links(connection)
        previous = links[-1].link if links else chain.FIRST
        days = chain.missing_days(connection, now_ns())
        for day_ns in days:
            link = chain.make_link(connection, day_ns, previous)
            store(settings, [link.row()])
            previous = link.link
        if days:
            wait_applied(connection, "index_chain")
    return len(days)


def checked_links(settings: Settings, archive: Archive | None = None) -> Iterator[chain.Checked]:
    """Yield every stored day with its errors. Args: archive: where removed records are read."""
    with schema.connect(address(settings)) as connection:
        yield from chain.check(connection, archive)
