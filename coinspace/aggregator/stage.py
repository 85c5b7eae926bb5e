"""The aggregator: book, state and heartbeat messages in, one aggregate per asset and tick out.

Messages apply in the order of their arrival. A message received after a tick waits until that tick
is made: so a tick contains exactly the messages known at its time. A message that is too far ahead
applies at once: the clock of its collector is wrong. When too many messages wait, the oldest one
applies at once.
"""

from __future__ import annotations

import contextlib
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import numpy as np
import orjson

from coinspace._ext.message import AGGREGATE, HEARTBEAT, ORDERBOOK, RATE, STATE, Message
from coinspace._ext.sink import Sink, Topic
from coinspace.aggregator.consolidate import Consolidator
from coinspace.aggregator.venue import CLOCK_OFF_NS, Input, Venue
from coinspace.clock import MILLISECOND_NS, SECOND_NS, STEP_NS, Clock
from coinspace.config import Settings
from coinspace.constituents import assets_with, collected, named, venues_of
from coinspace.errors import MarketError, MessageError
from coinspace.exchanges.identity import identity, is_renamed, summable
from coinspace.market import FX_MARKET, Market
from coinspace.method.aggregate import Aggregate, encode
from coinspace.method.fx import FxIndex
from coinspace.method.reference import USD_KRW, Reference, decode_quotation

COLLECTOR = "orderbook-collector-"
# interval 0: at 2,000 updates/s five minutes have 600,000 rates; sorting them takes 54 µs a tick,
# writing them takes 80 ms a second
FX_APART_NS = 100 * MILLISECOND_NS
COUNTS = (
    "messages unknown_markets late ticks coalesced clock_steps ticks_repeated clock_ahead"
    " waiting_overflow levels_dropped quotations_refused"
)
# limit of messages that wait for their tick, per second of interval: ten times a busy day's rate
WAITING_LIMIT = 20_000


class OrderbookAggregator:
    """Keeps every venue's last state and makes an aggregate per asset at each tick.

    Args:
        settings: which assets, which markets of which exchanges, and the method's parameters.
        sink: where aggregate messages go.
        on_aggregate: called with each aggregate (replays need no bytes). The next tick overwrites
            its ladders.
        heartbeats: judge collectors by their heartbeats, which a recording does not have.
        coalesce: at interval 0 an update only requests a tick, and `flush` makes one tick for all
            requests. False = each update is a tick.
        clock: at interval 0, limits the times of ticks, which come from the collectors' hosts.
        on_assets: called when assets of patterns get an index, with the topics of their books and
            the number of venues of each asset.
    """

    def __init__(
        self,
        settings: Settings,
        sink: Sink | None = None,
        *,
        on_aggregate: Callable[[Aggregate], object] | None = None,
        heartbeats: bool = True,
        coalesce: bool = False,
        clock: Clock | None = None,
        on_assets: Callable[[list[bytes], Mapping[str, int]], None] | None = None,
    ) -> None:
        self._settings = settings
        self._on_assets = on_assets
        self._sink = sink
        self._on_aggregate = on_aggregate
        self._heartbeats = heartbeats
        self._coalesce = coalesce
        self._clock = clock
        self._topics: dict[str, Topic] = {}
        self.interval_ns = settings.index.interval_ms * MILLISECOND_NS
        self.venues: dict[tuple[str, str], Venue] = {}
        self._named: dict[str, Venue] = {}
        # topic of its books -> venue
        self._routes: dict[bytes, Venue] = {}
        self.assets: dict[str, list[Venue]] = {}
        self._interval_of_ns: dict[str, int] = {}
        self._lag_ns: dict[str, int] = {}
        self._consolidators: dict[str, Consolidator] = {}
        # venues whose base name, at least at times, means another asset or a multiple
        self._renamed: set[Venue] = set()
        # venues that a pattern of the configuration includes; venues that an exchange has not
        self._patterned: set[Venue] = set()
        self._absent: set[Venue] = set()
        self.fx_venues: list[Venue] = []
        # exchange -> its markets by its collector's heartbeats, without halted ones
        self._listed: dict[str, frozenset[str]] = {}
        self._add_assets(settings.index.assets)
        self.fx = FxIndex(
            settings.index.parameters, apart_ns=0 if self.interval_ns else FX_APART_NS
        )
        self.reference = Reference(settings.rates.sources, settings.rates.holidays)
        self._fx_lag_ns = int(settings.index.parameters.lag_ms * MILLISECOND_NS)
        self._waiting: deque[tuple[int, Message]] = deque()
        self._waiting_limit = WAITING_LIMIT * max(1, self.interval_ns // SECOND_NS)
        # publisher -> lead of its clock before the ticks at its last heartbeat, ns
        self._clock_offsets = {venue.publisher: 0 for venue in self.venues.values()}
        # interval 0: assets with an update since the last tick; time of the latest update
        self._due: dict[str, None] = {}
        self._due_ns = 0
        self.last_ts_ns = 0
        self.counts = dict.fromkeys(COUNTS.split(), 0)

    def _add_assets(self, assets: Iterable[str]) -> None:
        index = self._settings.index
        for asset in assets:
            self.assets[asset] = []
            self._interval_of_ns[asset] = index.interval_ms_of(asset) * MILLISECOND_NS
            self._lag_ns[asset] = int(index.parameters_of(asset).lag_ms * MILLISECOND_NS)
            self._consolidators[asset] = Consolidator(asset)
        self._make_venues()

    def _make_venues(self) -> None:
        settings = self._settings
        for exchange in settings.exchanges:
            by_name = set(named(settings, exchange))
            for text in collected(settings, exchange):
                market = Market.parse(text)
                is_fx = text == FX_MARKET
                # every asset uses the FX rate
                meant = (
                    tuple(self.assets) if is_fx else assets_with(settings.index, exchange, market)
                )
                if not meant and not is_fx:
                    continue
                venue = self.venues.get((exchange, text)) or self._venue(exchange, market)
                venue.assets = meant
                if text not in by_name:
                    self._patterned.add(venue)
                if is_fx:
                    if venue not in self.fx_venues:
                        self.fx_venues.append(venue)
                    continue
                for asset in meant:
                    if venue not in self.assets[asset]:
                        self.assets[asset].append(venue)
                if is_renamed(exchange, market.base):
                    self._renamed.add(venue)
        self.fx_venues.sort(key=lambda one: one.name)
        for venues in self.assets.values():
            venues.sort(key=lambda one: one.name)

    def _follow_listings(self, exchange: str, states: Mapping[str, Any], at_ns: int) -> None:
        """Give assets of patterns an index once enough exchanges list them."""
        index = self._settings.index
        markets = frozenset(one for one, state in states.items() if state != "halted")
        if not index.patterns or markets == self._listed.get(exchange):
            return
        self._listed[exchange] = markets
        venues = venues_of(index, self._listed_markets(), at_ns)
        added = [
            asset
            for asset, n_venues in venues.items()
            if n_venues >= index.minimum_venues and index.admit(asset)
        ]
        if not added:
            return
        known = set(self._routes)
        self._add_assets(added)
        routes = {topic: one for topic, one in self._routes.items() if topic not in known}
        # until a collector lists it or a book comes
        self._absent.update(
            one
            for one in self._patterned.intersection(routes.values())
            if one.market_name not in self._listed.get(one.exchange, ())
        )
        if self._on_assets is not None:
            self._on_assets(list(routes), venues)

    def _listed_markets(self) -> Iterator[tuple[str, Market]]:
        for exchange, texts in self._listed.items():
            for text in sorted(texts):
                with contextlib.suppress(MarketError):
                    yield exchange, Market.parse(text)

    def _summed(self, asset: str, ts_ns: int) -> list[Venue]:
        # offered venues whose name means the asset at that time
        venues = self._offered(self.assets[asset])
        if self._renamed.isdisjoint(venues):
            return venues
        return [one for one in venues if summable(one.exchange, one.market.base, asset, ts_ns)]

    def _offered(self, venues: list[Venue]) -> list[Venue]:
        if self._absent.isdisjoint(venues):
            return venues
        return [one for one in venues if one not in self._absent]

    def _venue(self, exchange: str, market: Market) -> Venue:
        venue = Venue(exchange, market, publisher=f"{COLLECTOR}{exchange}")
        venue.excluded = venue.name in self._settings.index.excluded
        self.venues[exchange, str(market)] = self._named[venue.name] = venue
        self._routes[f"orderbook.{exchange}.{market}.".encode()] = venue
        return venue

    def on_message(self, message: Message) -> None:
        """Take a message; it applies at the first tick at or after its receipt."""
        self.counts["messages"] += 1
        known_ns = message.received_ns or message.published_ns
        if not self.interval_ns:
            at_ns = self._plausible(known_ns)
            venue = self._apply(message, at_ns)
            if venue is not None:
                self._ask(venue, at_ns)
            return
        if known_ns <= self.last_ts_ns and message.kind == ORDERBOOK:
            # its tick is already published: the grace is too short or the bus is slow
            self.counts["late"] += 1
        if len(self._waiting) >= self._waiting_limit:
            # the oldest first, so that each publisher's messages keep their order
            self.counts["waiting_overflow"] += 1
            self._apply(self._waiting.popleft()[1], self.last_ts_ns)
        self._waiting.append((known_ns, message))

    def _plausible(self, known_ns: int) -> int:
        if self._clock is None:
            return known_ns
        now_ns = self._clock()
        if abs(known_ns - now_ns) <= CLOCK_OFF_NS:
            return known_ns
        self.counts["clock_ahead"] += known_ns > now_ns
        return now_ns

    def tick(self, ts_ns: int, inputs: Mapping[str, Input] | None = None) -> None:
        """Make the aggregates of one tick, a multiple of the interval.

        A tick just before the last one, or equal to it, is dropped and counted. A tick long before
        the last one is made: the clock was set back.

        Args: inputs: venue -> input in its stored record. With it, the tick is made as it was made
            live: messages that were late then are late again.
        """
        if ts_ns <= self.last_ts_ns:
            if self.last_ts_ns - ts_ns < STEP_NS:
                self.counts["ticks_repeated"] += 1
                return
            self.clock_stepped()
        self._take(ts_ns, inputs or {})
        self.last_ts_ns = ts_ns
        self.counts["ticks"] += 1
        self._emit(ts_ns, self.due(ts_ns))

    def due(self, ts_ns: int) -> list[str]:
        """Return the assets that have a tick at an instant of the grid."""
        return [
            one
            for one, step_ns in self._interval_of_ns.items()
            if not step_ns or not ts_ns % step_ns
        ]

    @property
    def topics(self) -> list[bytes]:
        """The topics of the books that it reads, one per market."""
        return list(self._routes)

    def clock_stepped(self) -> None:
        """Reset all state after the clock was set: its times come from the old clock."""
        self.counts["clock_steps"] += 1
        while self._waiting:
            self._apply(self._waiting.popleft()[1], self.last_ts_ns)
        for venue in self.venues.values():
            venue.forget()
        self.fx.rate.forget()
        self.reference.forget()
        self._due.clear()
        self._due_ns = self.last_ts_ns = 0

    def absorb(self, ts_ns: int) -> None:
        """Apply the messages known at an instant, without making a tick."""
        self._take(ts_ns, {})

    def _take(self, ts_ns: int, inputs: Mapping[str, Input]) -> None:
        waiting, self._waiting = self._waiting, deque()
        # a publisher's messages arrive in order: all after a late one are late
        late: set[str] = set()
        for known_ns, message in waiting:
            ahead_ns = known_ns - ts_ns
            if 0 < ahead_ns <= CLOCK_OFF_NS or (
                inputs and _was_late(known_ns, message, inputs, late)
            ):
                self._waiting.append((known_ns, message))
            else:
                self.counts["clock_ahead"] += ahead_ns > 0
                self._apply(message, ts_ns)
        for name, given in inputs.items():
            venue = self._named.get(name)
            if venue is not None:
                venue.recall(given)
        if inputs:
            # the exchange offered every venue of the record
            self._absent = {one for one in self._patterned if one.name not in inputs}

    def lacks(self, inputs: Mapping[str, Input]) -> bool:
        """Return whether a stored record lacks a book or a quotation that has arrived here."""
        rate = inputs.get(USD_KRW)
        if rate is not None and rate.received_ns < self.reference.heard_ns:
            return True
        return any(
            not given.received_ns and name in self._named and self._named[name].received_ns
            for name, given in inputs.items()
        )

    def flush(self) -> None:
        """Make one tick for all updates since the last one, if there were any (interval 0)."""
        if not self._due:
            return
        due, self._due = self._due, {}
        self.last_ts_ns = max(self._due_ns, self.last_ts_ns + 1)
        self.counts["ticks"] += 1
        self._emit(self.last_ts_ns, due)

    def _ask(self, venue: Venue, ts_ns: int) -> None:
        self.counts["coalesced"] += bool(self._due)
        self._due.update(dict.fromkeys(venue.assets))
        self._due_ns = max(self._due_ns, ts_ns)
        if not self._coalesce:
            self.flush()

    def _emit(self, ts_ns: int, assets: Iterable[str]) -> None:
        fx_venues = self._offered(self.fx_venues)
        fx_facts = [one.facts(ts_ns, self._fx_lag_ns, 1.0) for one in fx_venues]
        fx = self.fx.update(ts_ns, fx_facts, [one.book for one in fx_venues])
        sources = self._settings.rates.sources
        reference = self.reference.at(ts_ns) if sources else None
        for asset in assets:
            aggregate = self._consolidators[asset].consolidate(
                ts_ns,
                self._summed(asset, ts_ns),
                fx,
                self._lag_ns[asset],
                reference=reference,
                fx_venues=fx_facts,
            )
            if self._on_aggregate is not None:
                self._on_aggregate(aggregate)
            if self._sink is not None:
                self._publish(self._sink, aggregate)

    def _publish(self, sink: Sink, aggregate: Aggregate) -> None:
        topic = self._topics.get(aggregate.asset)
        if topic is None:
            topic = sink.topic(f"aggregate.{aggregate.asset}.".encode())
            self._topics[aggregate.asset] = topic
        payload, n_bids, n_asks = encode(aggregate)
        sink.publish(
            topic, AGGREGATE, payload, n_bids=n_bids, n_asks=n_asks, received_ns=aggregate.ts_ns
        )

    def _apply(self, message: Message, at_ns: int) -> Venue | None:
        """Apply a message that is known at `at_ns`. Returns: the venue, if it was a book."""
        if message.kind == ORDERBOOK:
            return self._apply_book(message)
        if message.kind == STATE:
            self._apply_state(message)
        elif message.kind == HEARTBEAT:
            self._apply_heartbeat(message, at_ns)
        elif message.kind == RATE:
            self._apply_quotation(message)
        return None

    def _apply_quotation(self, message: Message) -> None:
        try:
            taken = self.reference.take(decode_quotation(message))
        except MessageError:
            taken = False
        self.counts["quotations_refused"] += not taken

    def _apply_book(self, message: Message) -> Venue | None:
        venue = self._routes.get(message.topic)
        if venue is None:
            self.counts["unknown_markets"] += 1
            return None
        if not venue.received_ns and venue.state == "disconnected" and not venue.epoch:
            # its state was published before this process subscribed
            venue.state = "synced"
        bids, asks = message.bids, message.asks
        if venue in self._renamed:
            # a market may trade multiples of the asset: its price is for that many units
            units = identity(venue.exchange, venue.market.base, message.received_ns).multiplier
            scale = np.array([[1 / units], [units]])
            bids, asks = bids * scale, asks * scale
        self._absent.discard(venue)
        venue.on_book(bids, asks, message.received_ns)
        venue.epoch, venue.sequence = message.epoch, message.sequence
        self.counts["levels_dropped"] += venue.book.dropped
        return venue

    def _apply_state(self, message: Message) -> None:
        facts = _facts(message)
        venue = self.venues.get((message.exchange, message.market))
        if venue is None or facts.get("stream", "orderbook") != "orderbook":
            return
        venue.state = str(facts.get("state", ""))
        venue.epoch = venue.epoch or message.epoch

    def _apply_heartbeat(self, message: Message, at_ns: int) -> None:
        facts = _facts(message)
        process = str(facts.get("process", ""))
        if not process.startswith(COLLECTOR):
            return
        if self._heartbeats and process in self._clock_offsets:
            if not self.interval_ns and self._clock is not None:
                # ticks have the collectors' times: only this host's clock shows their differences
                at_ns = self._clock()
            lead_ns = self._clock_offsets[process] = message.published_ns - at_ns
            for venue in self.venues.values():
                if venue.publisher == process:
                    venue.on_heartbeat(lead_ns, max(at_ns, self.last_ts_ns))
        exchange = process.removeprefix(COLLECTOR)
        states = facts.get("states", {})
        if exchange in self._settings.exchanges and isinstance(states, dict):
            self._follow_listings(exchange, states, message.published_ns)
        if states:
            # a collector lists all its markets, or none before it knows them
            for venue in self._patterned:
                if venue.publisher == process and venue.market_name not in states:
                    self._absent.add(venue)
        for market, state in states.items():
            known = self.venues.get((exchange, market))
            if known is not None:
                self._absent.discard(known)
                known.state = str(state)

    def state(self) -> dict[str, Any]:
        """Return the state from which a later process goes on: the memory of both rates."""
        return {
            "ts_ns": self.last_ts_ns,
            "fx": self.fx.state(),
            "usd_krw": self.reference.state(),
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        self.fx.restore(dict(state.get("fx", {})))
        self.reference.restore(state.get("usd_krw", {}))

    def counters(self) -> dict[str, int | float]:
        """Return the counts, and the venues usable now."""
        usable = sum(
            venue.facts(self.last_ts_ns, self._fx_lag_ns, 1.0).reason is None
            for venue in self.venues.values()
        )
        return {
            **self.counts,
            "waiting": len(self._waiting),
            **{
                f'clock_lead_ms{{publisher="{name}"}}': offset_ns // MILLISECOND_NS
                for name, offset_ns in self._clock_offsets.items()
            },
            "venues": len(self.venues) - len(self._absent),
            "venues_usable": usable,
        }


def _was_late(known_ns: int, message: Message, inputs: Mapping[str, Input], late: set[str]) -> bool:
    if message.kind == RATE:
        known = inputs.get(USD_KRW)
        return known is not None and known_ns > known.received_ns
    exchange = message.exchange
    if message.kind == ORDERBOOK and exchange not in late:
        given = inputs.get(f"{exchange}:{message.market}")
        if given is not None and not given.received_ns:
            # the live aggregator had just started: it may have known other markets of the exchange
            return True
        if given is not None and known_ns > given.received_ns:
            late.add(exchange)
    return exchange in late


def _facts(message: Message) -> dict[str, Any]:
    try:
        facts = message.json()
    except orjson.JSONDecodeError:
        return {}
    return facts if isinstance(facts, dict) else {}
