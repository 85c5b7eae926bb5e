"""Recordings as sources of the index: feeds grouped by collector, and the run over all feeds."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from coinspace._ext.sink import ListSink
from coinspace.collector.collection import make_stage
from coinspace.collector.commands import quiet_logs
from coinspace.collector.markets import resolve
from coinspace.collector.tools.checker import symbols_of
from coinspace.collector.tools.offline import Replay
from coinspace.config import IndexParameters, Settings
from coinspace.constituents import assets_with, collected, named
from coinspace.errors import CoinSpaceError
from coinspace.exchanges import exchange as exchange_named
from coinspace.index.calculator import Index
from coinspace.market import Market
from coinspace.method.record import IndexRecord
from coinspace.recompute.offline import FeedReplay
from coinspace.recording.format import FeedReader


def sources(
    paths: tuple[Path, ...], settings: Settings, *, segments: bool = False
) -> tuple[list[FeedReader], Callable[[FeedReader, ListSink], Replay]]:
    """Return the readers of feeds, and a function that makes the collector of a feed.

    Feeds of one exchange with a common market are parts of one connection and share a collector.
    With `segments`, all feeds of an exchange share a collector.
    """
    groups: dict[str, list[tuple[set[str], list[Path]]]] = {}
    for path in paths:
        with FeedReader(path) as reader:
            name = reader.exchange
            if name not in settings.exchanges:
                known = ", ".join(settings.exchanges)
                raise CoinSpaceError(f"{path}: expected a feed of {known}, was {name!r}")
            symbols: set[str] = set()
            if not segments:
                symbols = set(symbols_of(exchange_named(name), reader))
        mine = groups.setdefault(name, [])
        group = next((one for one in mine if segments or one[0] & symbols), None)
        if group is None:
            mine.append((symbols, [path]))
        else:
            group[0].update(symbols)
            group[1].append(path)
    collectors: dict[Path, Replay] = {}
    sinks: dict[Path, tuple[str, list[tuple[str, str]], list[Path]]] = {}
    for name, mine in groups.items():
        spelled = exchange_named(name)
        markets = collected(settings, name)
        configured = resolve(spelled, markets, None) if markets else []
        for symbols, members in mine:
            entries = [one for one in configured if segments or one[0] in symbols]
            for path in members:
                sinks[path] = (name, entries, members)

    def make(reader: FeedReader, sink: ListSink) -> Replay:
        found = collectors.get(reader.path)
        if found is None:
            name, entries, members = sinks[reader.path]
            stage = make_stage(
                exchange_named(name), "orderbook", settings.exchanges[name], entries, sink
            )
            found = Replay(stage)
            for path in members:
                collectors[path] = found
        return found

    readers = [FeedReader(path) for path in paths if sinks[path][1]]
    return readers, make


def narrow(paths: tuple[Path, ...], settings: Settings) -> None:
    """Reduce the settings to the feeds' content: the markets of patterns, and the assets."""
    symbols_by_exchange: dict[str, set[str]] = {}
    for path in paths:
        with FeedReader(path) as reader:
            name = reader.exchange
            symbols_by_exchange.setdefault(name, set()).update(
                symbols_of(exchange_named(name), reader)
            )
    recorded: set[str] = set()
    for name, symbols in symbols_by_exchange.items():
        spelled = exchange_named(name)
        by_name = named(settings, name)
        found = [
            text
            for text in collected(settings, name)
            if text in by_name or spelled.symbol_of(Market.parse(text)) in symbols
        ]
        settings.exchanges[name].markets = found
        for text in found:
            market = Market.parse(text)
            if spelled.symbol_of(market) in symbols:
                recorded.update(assets_with(settings.index, name, market))
    settings.index.assets = [one for one in settings.index.assets if one in recorded]


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
