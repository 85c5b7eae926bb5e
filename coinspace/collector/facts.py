"""The facts beside the price of one exchange: answers in, messages out. No socket and no clock.

Each source says some parts. A part is unknown while one of its sources is silent for long or cannot
be read; a market's message is published when its facts change, and again for later subscribers.

Every `now_ns` is the monotonic clock.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import structlog

from coinspace._ext.message import FACT, REPEAT
from coinspace._ext.sink import Sink
from coinspace.clock import SECOND_NS, Clock
from coinspace.collector.limits import LogGate
from coinspace.exchanges.exchange import Exchange, FactSource, Part, Refusal, Request, plain
from coinspace.exchanges.facts import (
    MOST_FLAGS,
    MOST_NETWORKS,
    MOST_NOTICES,
    Facts,
    Flag,
    Network,
    Notice,
    Said,
    Trading,
    encode_facts,
    highest,
    wallet,
)
from coinspace.market import Market

# the first requests wait for the connections; how much each interval varies
START_NS, JITTER = 2 * SECOND_NS, 0.1
# intervals without an answer after which a source counts as silent
SILENT_INTERVALS = 3.5
# a source that refuses for good, such as one that a mirror does not have, is asked less often
REFUSED_FACTOR = 20
# the list of markets comes at this interval
LIST_S = 60.0
# nothing is published before each source has answered once, or this time is over
WAIT_NS = 20 * SECOND_NS
# each market is published again at this interval, unless there are more of them a second than this
REPEAT_NS, REPEATS_A_SECOND = 10 * SECOND_NS, 10


@dataclass(slots=True)
class _Source:
    """One source; said: its newest answer, None = none, or too old."""

    source: FactSource
    due_ns: int = 0
    said: Said | None = None
    said_ns: int = 0
    failing: str = ""
    tried: bool = False

    @property
    def interval_ns(self) -> int:
        return int((self.source.every_s or LIST_S) * SECOND_NS)


@dataclass(slots=True)
class _Market:
    symbol: str
    base: str
    topic: Any
    facts: Facts | None = None


NO_DAYS: Mapping[str, int] = {}
# part -> what its sources say, None = unknown
Parts = Mapping[Part, Sequence[Said | None]]


class FactStage:
    """Follows the facts of an exchange's collected markets and publishes them.

    Attributes:
        refused: reason -> number of answers that said nothing. unread: rows left out.
    """

    def __init__(
        self, exchange: Exchange, entries: Iterable[tuple[str, str]], sink: Sink, wall: Clock
    ) -> None:
        self.exchange = exchange
        self.refused: Counter[str] = Counter()
        self.answers = self.unread = self.published = 0
        self._sink = sink
        self._wall = wall
        self._sources = {one.request.path: _Source(one) for one in exchange.FACTS}
        self._markets: list[_Market] = []
        self._suspended: frozenset[str] = frozenset()
        self._delistings: Mapping[str, int] = {}
        self._changed = False
        self.add(entries)
        self._begun_ns = 0
        self._repeat_ns = self._next = 0
        self._draw = random.Random(exchange.NAME).random
        self._gate = LogGate()
        self._log = structlog.get_logger(f"facts-{exchange.NAME}")

    def add(self, entries: Iterable[tuple[str, str]]) -> None:
        """Follow further markets, as (symbol, market) pairs."""
        known = {one.symbol for one in self._markets}
        for symbol, market in entries:
            if symbol not in known:
                topic = self._sink.topic(f"fact.{self.exchange.NAME}.{market}.".encode())
                base = Market.parse(market).base
                self._markets.append(_Market(symbol, base, topic))
                self._changed = True

    def remove(self, symbols: Collection[str]) -> None:
        """Stop following markets."""
        self._markets = [one for one in self._markets if one.symbol not in symbols]

    # requests

    def take_requests(self, now_ns: int) -> list[Request]:
        """Return the requests that are due; the list of markets is asked for anyway."""
        if not self._begun_ns:
            self._begin(now_ns)
        due = []
        for one in self._sources.values():
            if one.source.every_s and now_ns >= one.due_ns:
                one.due_ns = now_ns + self._varied(one.interval_ns)
                due.append(one.source.request)
        return due

    def _begin(self, now_ns: int) -> None:
        self._begun_ns = now_ns
        for one in self._sources.values():
            one.due_ns = now_ns + self._varied(START_NS)

    def _varied(self, interval_ns: int) -> int:
        return int(interval_ns * (1.0 + JITTER * (2.0 * self._draw() - 1.0)))

    def wants(self, request: Request) -> bool:
        """Return whether an answer has facts."""
        return request.path in self._sources

    # answers

    def on_said(self, request: Request, said: Said, now_ns: int) -> None:
        """Take what an answer says."""
        one = self._sources[request.path]
        self.answers += 1
        self.unread += said.unread
        one.failing, one.tried = "", True
        if said.unread and self._gate.opens(f"unread {request.path}", now_ns):
            self._log.warning("rows cannot be read", path=request.path, rows=said.unread)
        self._changed |= one.said != said
        one.said, one.said_ns = said, now_ns

    def on_unreadable(self, request: Request, error: Exception, now_ns: int) -> None:
        """Take an answer of an unknown form: what it said before is no longer known."""
        one = self._sources[request.path]
        self._changed |= one.said is not None
        one.said = None
        self._fail(one, "unreadable", repr(error), now_ns)

    def on_refused(self, request: Request, refusal: Refusal, now_ns: int) -> None:
        """Take a refusal: what the source said before counts until it is too old."""
        one = self._sources[request.path]
        if refusal.fatal:
            one.due_ns = now_ns + self._varied(one.interval_ns * REFUSED_FACTOR)
        self._fail(one, "refused", refusal.text, now_ns)

    def _fail(self, one: _Source, reason: str, text: str, now_ns: int) -> None:
        self.refused[reason] += 1
        before, one.tried = one.failing, True
        one.failing = plain(f"{reason}: {text}")
        # a source that never answers, such as one that a mirror lacks, is logged once
        if one.failing != before and self._gate.opens(one.source.request.path, now_ns):
            self._log.warning("facts unknown", path=one.source.request.path, reason=one.failing)

    # time

    def on_timer(
        self,
        now_ns: int,
        suspended: frozenset[str] = frozenset(),
        delistings: Mapping[str, int] = NO_DAYS,
    ) -> None:
        """Publish what has changed, and what is due again.

        Args: suspended: symbols that the stream calls suspended. delistings: symbol -> day on which
            trading ends according to the stream, such as 20261224.
        """
        if not self._begun_ns:
            self._begin(now_ns)
        for one in self._sources.values():
            if one.said and now_ns - one.said_ns > SILENT_INTERVALS * one.interval_ns:
                one.said, self._changed = None, True
                self._fail(one, "silent", one.failing or "no answer for long", now_ns)
        if suspended != self._suspended or delistings != self._delistings:
            self._suspended, self._delistings, self._changed = suspended, delistings, True
        tried = all(one.tried for one in self._sources.values())
        if not tried and now_ns - self._begun_ns < WAIT_NS:
            return
        if self._changed:
            self._changed = False
            self._publish_changes(now_ns)
        self._repeat(now_ns)

    def _publish_changes(self, now_ns: int) -> None:
        parts: dict[Part, list[Said | None]] = {}
        for one in self._sources.values():
            for part in one.source.parts:
                parts.setdefault(part, []).append(one.said)
        for market in self._markets:
            symbol = market.symbol
            found = facts_of(
                symbol,
                market.base,
                parts,
                suspended=symbol in self._suspended,
                delisting=self._delistings.get(symbol, 0),
            )
            if found != market.facts:
                market.facts = found
                self._publish(market, flags=0)

    def _repeat(self, now_ns: int) -> None:
        """Publish the markets again, evenly spread over the interval."""
        markets = self._markets
        gap_ns = max(REPEAT_NS // max(1, len(markets)), SECOND_NS // REPEATS_A_SECOND)
        if now_ns - self._repeat_ns > REPEAT_NS:
            self._repeat_ns = now_ns
        while markets and self._repeat_ns <= now_ns:
            self._repeat_ns += gap_ns
            market = markets[self._next % len(markets)]
            self._next += 1
            if market.facts is not None:
                self._publish(market, flags=REPEAT)

    def _publish(self, market: _Market, *, flags: int) -> None:
        assert market.facts is not None
        self.published += 1
        self._sink.publish(
            market.topic, FACT, encode_facts(market.facts), flags=flags, received_ns=self._wall()
        )

    def counters(self) -> dict[str, int | float]:
        known = [one.facts for one in self._markets if one.facts is not None]
        found: dict[str, int | float] = {
            "fact_answers": self.answers,
            "fact_rows_unread": self.unread,
            "facts_published": self.published,
            "wallets_closed": sum("closed" in (one.deposit, one.withdraw) for one in known),
            "markets_warned": sum(bool(one.flags) for one in known),
        }
        found.update(
            (f'fact_answers_refused{{reason="{reason}"}}', count)
            for reason, count in self.refused.items()
        )
        return found


def facts_of(
    symbol: str, coin: str, parts: Parts, *, suspended: bool = False, delisting: int = 0
) -> Facts:
    """Return the facts of one market.

    Args: parts: what the sources say. suspended, delisting: what the stream says.
    """
    flags = _flags(symbol, parts.get("flags", ()))
    trading, detail = _trading(symbol, parts)
    if suspended and trading != "suspended":
        trading, detail = "suspended", "suspended in the stream"
    networks = _wallet(coin, parts.get("wallets", ()))
    return Facts(
        deposit=wallet(one.deposit for one in networks),
        withdraw=wallet(one.withdraw for one in networks),
        trading=trading,
        warning="unknown" if flags is None else highest(flags),
        detail=detail,
        delisting=f"{delisting // 10_000}-{delisting // 100 % 100:02}-{delisting % 100:02}"
        if delisting
        else "",
        flags=tuple(dict.fromkeys(one.name for one in flags or ()))[:MOST_FLAGS],
        networks=tuple(networks)[:MOST_NETWORKS],
        notices=_notices(coin, parts.get("notices", ())),
    )


def _wallet(coin: str, found: Sequence[Said | None]) -> Sequence[Network]:
    for said in found:
        if said is not None and said.wallets is not None:
            return said.wallets.get(coin, ())
    return ()


def _notices(coin: str, found: Sequence[Said | None]) -> tuple[Notice, ...] | None:
    for said in found:
        if said is not None and said.notices is not None:
            return tuple(said.notices.get(coin, ()))[:MOST_NOTICES]
    return None


def _flags(symbol: str, found: Sequence[Said | None]) -> list[Flag] | None:
    # a market without a warning has one that is not known while a source is not known
    flags: list[Flag] = []
    complete = bool(found)
    for said in found:
        if said is None or said.flags is None:
            complete = False
            continue
        flags += said.flags.get(symbol, ())
        complete &= symbol in said.flags or not said.unread
    return flags if flags or complete else None


def _trading(symbol: str, parts: Parts) -> tuple[Trading, str]:
    for said in parts.get("whole", ()):
        if said is not None and said.whole is not None and said.whole[0] != "open":
            return said.whole
    for said in parts.get("trading", ()):
        if said is not None and said.trading is not None:
            absent: tuple[Trading, str] = ("suspended", "not listed")
            return said.trading.get(symbol, ("unknown", "") if said.unread else absent)
    return "unknown", ""
