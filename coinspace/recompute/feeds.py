"""Recordings as sources of the index: feeds grouped by collector, and the run over all feeds."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from coinspace._ext.sink import ListSink
from coinspace.collector.collection import make_stage
from coinspace.collector.commands import quiet_logs
from coinspace.collector.markets import resolve
from coinspace.collector.tools.checker import symbols_of
from coinspace.collector.tools.offline import Replay
from coinspace.config import IndexParameters, RatesSettings, Settings
from coinspace.constituents import assets_of_markets, collected, named
from coinspace.errors import CoinSpaceError
from coinspace.exchanges import exchange as exchange_named
from coinspace.index.calculator import Index
from coinspace.market import Market
from coinspace.method.record import IndexRecord
from coinspace.rates.replay import RECORDED, RateReplay
from coinspace.recompute.offline import FeedReplay
from coinspace.recording.format import FeedReader


@dataclass(slots=True)
class _Connection:
    """Feeds that share a collector: (symbol, market) pairs of all their markets."""

    exchange: str
    symbols: set[str]
    entries: list[tuple[str, str]] = field(default_factory=list)
    replay: Replay | None = None


def sources(
    paths: tuple[Path, ...], settings: Settings, *, segments: bool = False
) -> tuple[list[FeedReader], Callable[[FeedReader, ListSink], Replay | RateReplay]]:
    """Return the readers of feeds, and a function that makes the collector of a feed.

    Feeds of one exchange with a common market are parts of one connection and share a collector.
    With `segments`, all feeds of an exchange share a collector.
    """
    connections: dict[Path, _Connection] = {}
    rates, paths = recorded_rates(paths, settings)
    rate_replay: RateReplay | None = None
    for path in paths:
        name, symbols = _content(path, settings, segments)
        shared = (
            one
            for one in connections.values()
            if one.exchange == name and (segments or one.symbols & symbols)
        )
        connections[path] = found = next(shared, None) or _Connection(name, set())
        found.symbols |= symbols
    for one in connections.values():
        markets = collected(settings, one.exchange)
        entries = resolve(exchange_named(one.exchange), markets, None) if markets else []
        one.entries = [entry for entry in entries if segments or entry[0] in one.symbols]

    def make(reader: FeedReader, sink: ListSink) -> Replay | RateReplay:
        nonlocal rate_replay
        if reader.exchange == RECORDED:
            rate_replay = rate_replay or RateReplay(settings.rates, sink)
            return rate_replay
        one = connections[reader.path]
        if one.replay is None:
            exchange, section = exchange_named(one.exchange), settings.exchanges[one.exchange]
            one.replay = Replay(make_stage(exchange, "orderbook", section, one.entries, sink))
        return one.replay

    books = [path for path in paths if connections[path].entries]
    return [FeedReader(path) for path in (*books, *rates)], make


def recorded_rates(
    paths: tuple[Path, ...], settings: Settings
) -> tuple[tuple[Path, ...], tuple[Path, ...]]:
    """Separate the recordings of rates from the others; the settings get the newest one's sources.

    Returns: both kinds.
    """
    rates: dict[Path, int] = {}
    for path in paths:
        with FeedReader(path) as reader:
            if reader.exchange != RECORDED:
                continue
            header = reader.header
            rates[path] = int(header.get("started_ns", 0))
        if rates[path] == max(rates.values()):
            given: dict[str, Any] = settings.rates.model_dump()
            given |= {name: header[name] for name in ("sources", "holidays") if name in header}
            settings.rates = RatesSettings(**given)
    return tuple(rates), tuple(path for path in paths if path not in rates)


def _content(path: Path, settings: Settings, whole: bool = False) -> tuple[str, set[str]]:
    """Return the exchange of a feed and its symbols; `whole`: no symbols."""
    with FeedReader(path) as reader:
        name = reader.exchange
        if name not in settings.exchanges:
            known = ", ".join(settings.exchanges)
            raise CoinSpaceError(f"{path}: expected a feed of {known}, was {name!r}")
        return name, set() if whole else set(symbols_of(exchange_named(name), reader))


def narrow(paths: tuple[Path, ...], settings: Settings) -> None:
    """Reduce the settings to the feeds' content: the markets of patterns, and the assets."""
    symbols_by_exchange: dict[str, set[str]] = {}
    for path in recorded_rates(paths, settings)[1]:
        name, symbols = _content(path, settings)
        symbols_by_exchange.setdefault(name, set()).update(symbols)
    recorded: list[tuple[str, Market]] = []
    for name, symbols in symbols_by_exchange.items():
        spelled = exchange_named(name)
        by_name = named(settings, name)
        found = [
            text
            for text in collected(settings, name)
            if text in by_name or spelled.symbol_of(Market.parse(text)) in symbols
        ]
        settings.exchanges[name].markets = found
        markets = (Market.parse(text) for text in found)
        recorded += [(name, one) for one in markets if spelled.symbol_of(one) in symbols]
    settings.index.assets = assets_of_markets(settings.index, recorded)


def from_feeds(
    paths: tuple[Path, ...],
    settings: Settings,
    parameters_of: Callable[[str], IndexParameters],
    take: Callable[[IndexRecord, Index], None],
) -> FeedReplay:
    """Compute all ticks of recordings."""
    quiet_logs()
    narrow(paths, settings)
    readers, make = sources(paths, settings)
    replay: FeedReplay

    def emit(record: IndexRecord, _: object) -> None:
        take(record, replay.calculator.index(record.asset))

    replay = FeedReplay(settings, make, parameters_of, emit)
    replay.run(readers)
    return replay
