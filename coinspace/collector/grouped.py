"""Books of price groups: a connection for each market, which extends the market's book of levels.

The stage of the books merges both (`ext/collect/groups.pyx`). Here is decided which groups a market
gets: the finest that reach far enough, of those that the exchange lists or of those worth a try. A
level that the exchange refuses, or that stays silent, is reported once and not asked for again for
a while, also after a restart. The book of single levels goes on without groups.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import orjson
import structlog

from coinspace._ext.collector_book import BookMarket
from coinspace._ext.groups import GroupCollector, Groups
from coinspace._ext.sink import ListSink
from coinspace.clock import SECOND_NS, now_ns
from coinspace.collector.connection import Connection
from coinspace.collector.stage import ERROR, FIRST_FRAME_NS, Stage, State, Status
from coinspace.errors import UNREADABLE
from coinspace.exchanges.exchange import Exchange, Grouping, Subscription
from coinspace.exchanges.settings import ExchangeSettings
from coinspace.files import replace_file
from coinspace.market import Market

# markets with groups at most: each has a connection of its own
MOST = 30
# a level is not asked for again for this time after a refusal, and after silence, which may have
# another cause
REFUSED_NS = 7 * 86_400 * SECOND_NS
SILENT_NS = 3_600 * SECOND_NS
# time between two requests for the list of levels
LIST_NS = 30 * SECOND_NS


class GroupStage(Stage, GroupCollector):
    """One market's connection of price groups: it publishes nothing and reports no states."""

    stream = "orderbook"

    def __init__(self, exchange: Exchange, market: BookMarket, groups: Groups) -> None:
        sink = ListSink()
        parser = exchange.parser(exchange.STREAM_DEPTH)
        GroupCollector.__init__(self, parser, sink, [groups])
        Stage.__init__(self, exchange, [(market.symbol.decode(), market.market)], sink)

    def change(
        self, status: Status, state: State, now_ns: int, reason: str | None = None, **details: Any
    ) -> None:
        """Do nothing: the stage of the books reports the states."""

    def caught_up(self, connection: int) -> bool:
        """Return true: the groups of an older connection stay in use until new ones come."""
        return True

    def on_control(self, frame: bytes, received_ns: int, connection: int) -> None:
        """Keep a refusal for the connection; `GroupedBooks` reports it once."""
        with contextlib.suppress(orjson.JSONDecodeError):
            if self.parser.control == ERROR:
                refusal = self.exchange.refusal_of_frame(orjson.loads(frame))
                self._refusals[connection] = refusal


class Memory:
    """Levels that an exchange refused, in a file: symbol -> level -> time of the next try, ns."""

    def __init__(self, path: Path | None) -> None:
        self._path = path
        self._until: dict[str, dict[float, int]] = {}
        if path is not None:
            # without a readable file each level is tried again
            with contextlib.suppress(OSError, ValueError, TypeError, AttributeError):
                self._until = {
                    symbol: {float(level): int(until) for level, until in levels.items()}
                    for symbol, levels in orjson.loads(path.read_bytes()).items()
                }

    def add(self, symbol: str, level: float, until_ns: int, symbols: Sequence[str]) -> None:
        """Remember a refusal. Args: symbols: all others are forgotten, so the file has a bound."""
        self._until.setdefault(symbol, {})[level] = until_ns
        known = {one: self._until[one] for one in symbols if one in self._until}
        self._until = known
        if self._path is not None:
            spelled = {
                one: {f"{level:.15g}": until for level, until in levels.items()}
                for one, levels in known.items()
            }
            with contextlib.suppress(OSError):
                replace_file(self._path, orjson.dumps(spelled))

    def refuses(self, symbol: str, level: float, wall_ns: int) -> bool:
        return self._until.get(symbol, {}).get(level, 0) > wall_ns


@dataclass(slots=True)
class Grouped:
    """One market with groups: its level now, and its connection.

    given: level of the configuration. listed: levels that REST lists. refused: last report.
    """

    book: BookMarket
    symbol: str
    stage: GroupStage
    given: float | None = None
    listed: tuple[float, ...] = ()
    level: float | None = None
    connection: Connection | None = None
    refused: str = ""
    asked_ns: int = field(default=-LIST_NS)


class GroupedBooks:
    """Chooses the groups of an exchange's markets and keeps their connections.

    Args:
        connect: opens a connection for a subscription. request: sends a REST request.
        memory: file of refused levels, None = they are forgotten at the end.
    """

    def __init__(
        self,
        exchange: Exchange,
        settings: ExchangeSettings,
        connect: Callable[[Subscription, GroupStage], Connection],
        request: Callable[[Any], object],
        memory: Path | None = None,
    ) -> None:
        assert exchange.GROUPING is not None
        self.exchange = exchange
        self.grouping: Grouping = exchange.GROUPING
        self.refusals = 0
        self.log = structlog.get_logger(f"orderbook-{exchange.NAME}")
        self._settings = settings
        self._connect, self._request = connect, request
        self._memory = Memory(memory)
        self.markets: list[Grouped] = []

    def add(self, book: BookMarket, groups: Groups) -> None:
        """Extend the book of one more market, unless there are too many."""
        if len(self.markets) < MOST:
            given = given_level(self._settings.group_levels, book.market)
            stage = GroupStage(self.exchange, book, groups)
            self.markets.append(Grouped(book, book.symbol.decode(), stage, given))

    def remove(self, symbol: str) -> None:
        """End the groups of a market that is not collected any more."""
        for one in [one for one in self.markets if one.symbol == symbol]:
            self.markets.remove(one)
            if one.connection is not None:
                one.connection.end()

    def on_timer(self, now_ns: int) -> None:
        """Choose levels, and give up those that bring nothing; called a few times a second."""
        for one in self.markets:
            if one.connection is None:
                self._begin(one, now_ns)
            else:
                self._watch(one, one.connection, now_ns)

    def on_list(self, payload: bytes) -> None:
        """Take the exchange's list of levels."""
        try:
            assert self.grouping.read is not None
            found = self.grouping.read(payload)
        except UNREADABLE as error:
            self.log.warning("list of price groups cannot be read", error=repr(error))
            return
        for one in self.markets:
            one.listed = found.get(one.symbol, ())

    def _begin(self, one: Grouped, now_ns: int) -> None:
        # the price decides how far groups reach, so the first book comes before them
        if not one.book.usable or not one.book.n_bids:
            return
        request = self.grouping.request
        if request is not None and not one.listed and one.given is None:
            if now_ns - one.asked_ns > LIST_NS:
                # one code that is not offered would fail the whole call, and it has no book
                waiting = [
                    other
                    for other in self.markets
                    if not other.listed and other.given is None and other.book.usable
                ]
                for other in waiting:
                    other.asked_ns = now_ns
                self._request(request([other.symbol for other in waiting]))
            return
        level = self._choice(one)
        if level is None:
            return
        one.level = level
        frame = self.grouping.frame(self._settings, one.symbol, level)
        subscription = Subscription(self._settings.websocket, (frame,), (one.symbol,))
        one.connection = self._connect(subscription, one.stage)

    def _choice(self, one: Grouped) -> float | None:
        if one.given is not None:
            levels: Sequence[float] = (one.given,)
        else:
            levels = one.listed or self.grouping.levels
        wall_ns = now_ns()
        left = [x for x in levels if not self._memory.refuses(one.symbol, x, wall_ns)]
        if one.given is not None:
            return left[0] if left else None
        price = float(one.book.top()[0][0, 0])
        return self.grouping.finest(left, price, one.book.depth, self._settings.group_reach)

    def _watch(self, one: Grouped, connection: Connection, now_ns: int) -> None:
        status, groups = one.stage.statuses[0], one.stage.markets[0]
        if connection.fatal is not None:
            self._give_up(one, connection, connection.fatal.text, REFUSED_NS)
        elif (
            status.live
            and groups.heard_ns < status.subscribed_ns
            and now_ns - status.subscribed_ns > FIRST_FRAME_NS
        ):
            reason = f"no frame within {FIRST_FRAME_NS // SECOND_NS} s of the subscription"
            self._give_up(one, connection, reason, SILENT_NS)

    def _give_up(self, one: Grouped, connection: Connection, reason: str, wait_ns: int) -> None:
        assert one.level is not None
        self.refusals += 1
        one.refused = f"price groups of level {one.level:g} of {one.book.market}: {reason}"
        self.log.warning(
            "price groups refused, the book goes on without them",
            market=one.book.market,
            level=one.level,
            reason=reason,
        )
        symbols = [other.symbol for other in self.markets]
        self._memory.add(one.symbol, one.level, now_ns() + wait_ns, symbols)
        one.connection = one.level = None
        connection.end()

    @property
    def connections(self) -> list[Connection]:
        return [one.connection for one in self.markets if one.connection is not None]

    @property
    def problems(self) -> list[str]:
        """Levels of the configuration that the exchange refuses."""
        return [one.refused for one in self.markets if one.given is not None and one.refused]

    @property
    def levels(self) -> dict[str, float]:
        """Market -> level of the groups that it has now."""
        return {
            one.book.market: one.stage.markets[0].level
            for one in self.markets
            if one.connection is not None and one.stage.markets[0].level
        }

    def counters(self) -> dict[str, int | float]:
        return {
            "grouped_frames": sum(one.stage.markets[0].frames for one in self.markets),
            "grouped_markets": len(self.levels),
            "group_levels_refused": self.refusals,
        }


def given_level(levels: Mapping[str, float], market: str) -> float | None:
    """Return the level that the configuration gives a market, None = it leaves the choice."""
    return next((level for name, level in levels.items() if fnmatchcase(market, name)), None)


def grouped_markets(
    exchange: Exchange,
    settings: ExchangeSettings,
    markets: Sequence[str],
    needed: Mapping[str, int],
) -> list[str]:
    """Return the markets that are to have groups, the most needed first, at most `MOST`.

    Args: needed: markets of the index's assets -> their order.
    """
    if exchange.GROUPING is None:
        return []
    found = []
    for market in markets:
        level = given_level(settings.group_levels, market)
        wanted = settings.group_reach > 0 and market in needed if level is None else level > 0
        if wanted and Market.parse(market).quote in exchange.QUOTES:
            found.append(market)
    found.sort(key=lambda market: needed.get(market, len(needed)))
    return found[:MOST]
