"""Parts that both stages of an exchange share: states as messages, REST requests, control frames.

A stage does no I/O. It takes frames, answers and the time. It gives messages to a sink, and wanted
requests and reconnects (`take_requests`, `take_reconnects`), which a worker makes and a replay
ignores.

Every `now_ns` is the monotonic clock, which measures durations. A frame also has the wall clock of
its receipt, which is published. In a replay both are the feed's time.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, ClassVar, TypeVar

import orjson
import structlog

from coinspace._ext.message import STATE
from coinspace._ext.sink import Sink
from coinspace.clock import SECOND_NS, Clock
from coinspace.collector.demand import Demand, Value, budget
from coinspace.collector.limits import LogGate
from coinspace.exchanges.exchange import Exchange, Listing, Refusal, Request, Stream, plain
from coinspace.log import Summary


class State(StrEnum):
    """Published state of a market."""

    CONNECTING = "connecting"
    SUBSCRIBED = "subscribed"
    BUFFERING = "buffering"
    SYNCED = "synced"
    STALE = "stale"
    QUARANTINED = "quarantined"
    DISCONNECTED = "disconnected"
    HALTED = "halted"


# states that follow from the connection
LINK_STATES = frozenset({State.CONNECTING, State.SUBSCRIBED, State.DISCONNECTED})
# states that follow from the data
DATA_STATES = frozenset({State.BUFFERING, State.SYNCED, State.STALE, State.QUARANTINED})
# allowed changes; besides, a connection can end and a market can be halted at any time
CHANGES: dict[State, frozenset[State]] = {
    State.CONNECTING: frozenset({State.CONNECTING, State.SUBSCRIBED}),
    State.SUBSCRIBED: DATA_STATES | {State.SUBSCRIBED},
    **dict.fromkeys(DATA_STATES, DATA_STATES | {State.SUBSCRIBED}),
    State.DISCONNECTED: frozenset({State.CONNECTING, State.SUBSCRIBED}),
    # a market that is listed again may bring data at once
    State.HALTED: frozenset({State.CONNECTING, State.SUBSCRIBED}) | DATA_STATES,
}
ANY_TIME = frozenset({State.DISCONNECTED, State.HALTED})


def may_change(before: State, after: State) -> bool:
    """Return whether a market's state may follow another one."""
    return before == after or after in ANY_TIME or after in CHANGES[before]


HEAD_BYTES = 120
# of a control message: an acknowledgement that names all markets of an exchange has some 10 kB
CONTROL_BYTES = 256 << 10
# kinds of control frames, as `ext/parse/parser.pxd` numbers them
ACK, ERROR, SHUTDOWN, HEARTBEAT = 2, 3, 4, 6
# longest wait for a first frame: the exchanges report no error for an unknown symbol
FIRST_FRAME_NS = 10 * SECOND_NS
# a market that REST does not know is requested again, alone, after this wait, which doubles
ABSENT_NS = 30 * SECOND_NS
ABSENT_LIMIT_NS = 3600 * SECOND_NS
# a market that is not collected any more is reported as halted for this long
GONE_NS = 3600 * SECOND_NS


@dataclass(slots=True)
class Status:
    """State of one market, and times for its watchdogs."""

    market: str
    symbol: str
    topic: Any
    state: State = State.CONNECTING
    reason: str | None = None
    since_ns: int = 0
    since_wall_ns: int = 0
    # connections that deliver this market
    live: set[int] = field(default_factory=set)
    subscribed_ns: int = 0
    # last time at which REST or a snapshot confirmed the book
    confirmed_ns: int = 0


@dataclass(slots=True)
class Absence:
    """Time until which REST is not asked for a market, and the wait that led to it."""

    until_ns: int
    wait_ns: int = ABSENT_NS


_T = TypeVar("_T")


def place(values: list[_T], index: int, value: _T) -> None:
    """Set a value of a list, or append it."""
    values[index : index + 1] = [value]


class Stage:
    """Mixin of a compiled collector: everything outside the hot path."""

    stream: Stream
    # counters of a subclass besides those of all stages
    counted: ClassVar[tuple[str, ...]] = ()
    # counters of each market that a subclass sums
    summed: ClassVar[tuple[str, ...]] = ()
    # counters of each market whose `total` is used otherwise
    kept: ClassVar[tuple[str, ...]] = ()
    exchange: Exchange
    sink: Sink
    now_ns: int
    # the wall clock; None where `now_ns` is the wall clock too
    wall: Clock | None = None

    @classmethod
    def topic(cls, sink: Sink, exchange: Exchange, market: str, kind: str = "") -> Any:
        """Return the topic of a market's messages. Args: kind: the stream by default."""
        return sink.topic(f"{kind or cls.stream}.{exchange.NAME}.{market}.".encode())

    def __init__(
        self,
        exchange: Exchange,
        entries: list[tuple[str, str]],
        sink: Sink,
        needed: Collection[str] = (),
        first: Collection[str] = (),
    ) -> None:
        """Take (symbol, market) pairs; called after the `__init__` of the compiled side.

        Args:
            needed: markets that the index needs. Their requests come before those of other markets.
            first: those of them whose requests come first.
        """
        self.exchange = exchange
        self.log = structlog.get_logger(f"{self.stream}-{exchange.NAME}")
        self.summary = Summary(self.log, "market")
        self.statuses = [
            Status(market, symbol, self.topic(sink, exchange, market, "state"))
            for symbol, market in entries
        ]
        self._positions = {status.symbol: i for i, status in enumerate(self.statuses)}
        # index -> since when its market is not collected any more
        self._gone_ns: dict[int, int] = {}
        # sums of the counters of such markets whose place another one has taken
        self._past: Counter[str] = Counter()
        self.needed = frozenset(needed)
        self._first = frozenset(first)
        self.demand = Demand(budget(exchange, self.stream))
        # index -> absence of a market that REST refused: it is delisted or not listed yet
        self._absent: dict[int, Absence] = {}
        self._reconnects: dict[int, str] = {}
        self._refusals: dict[int, Refusal] = {}
        # connection -> its last control frame
        self.proven_ns: dict[int, int] = {}
        self._frames: dict[int, list[bytes]] = {}
        # all bad frames are counted, and a few logged
        self._gate = LogGate()
        # called for each new wanted request, so that it need not wait for the timer
        self.wanted: Callable[[], None] = lambda: None
        # called with (name, symbol, facts) for each loss, so that a recording marks it
        self.marker: Callable[[str, str, dict[str, Any]], None] | None = None
        self.counts: dict[str, int] = dict.fromkeys(
            (
                "connects",
                "disconnects",
                "error_frames",
                "acks",
                "shutdowns",
                "keys_refused",
                "first_frame_timeouts",
                "stale",
                "failures",
                "requests",
                "refused_requests",
                "unreadable_answers",
                "listing_events",
                "impossible_changes",
                *self.counted,
            ),
            0,
        )

    def wall_ns(self, now_ns: int) -> int:
        """Return the wall clock of an event, for publication."""
        return self.wall() if self.wall is not None else now_ns

    # states

    def change(
        self, status: Status, state: State, now_ns: int, reason: str | None = None, **details: Any
    ) -> None:
        if status.state == state and status.reason == reason and not details:
            return
        previous, status.state, status.reason = status.state, state, reason
        if not may_change(previous, state):
            self.counts["impossible_changes"] += 1
            self.log.error(
                "impossible state change", market=status.market, state=state, before=previous
            )
        wall_ns = self.wall_ns(now_ns)
        if previous != state:
            status.since_ns, status.since_wall_ns = now_ns, wall_ns
        self._publish_state(status, wall_ns, previous, **details)
        facts = {"state": state, "reason": reason, **details}
        if state in LINK_STATES or (previous in (*LINK_STATES, "buffering") and not reason):
            # the connection logs the same for all of its markets at once
            self.log.debug("state", market=status.market, **facts)
            return
        level = "info" if state == State.SYNCED else "warning"
        self.summary.add(level, "state", status.market, status.symbol, **facts)

    def _publish_state(
        self, status: Status, wall_ns: int, previous: State, **details: object
    ) -> None:
        payload = {
            "exchange": self.exchange.NAME,
            "market": status.market,
            "stream": self.stream,
            "state": status.state,
            "previous": previous,
            "reason": status.reason,
            "since_ns": status.since_wall_ns,
            **details,
        }
        self.sink.publish(status.topic, STATE, orjson.dumps(payload), received_ns=wall_ns)

    def announce(self, now_ns: int) -> None:
        """Publish each market's state: an earlier process has published up to now."""
        wall_ns = self.wall_ns(now_ns)
        for status in self.statuses:
            status.since_ns, status.since_wall_ns = now_ns, wall_ns
            self._publish_state(status, wall_ns, status.state)

    @property
    def states(self) -> dict[str, str]:
        """State by market, for the heartbeat; of a market that is gone for an hour."""
        forgotten = {i for i, since_ns in self._gone_ns.items() if self.now_ns - since_ns > GONE_NS}
        return {
            status.market: status.state
            for index, status in enumerate(self.statuses)
            if index not in forgotten
        }

    def mark(self, name: str, status: Status, **facts: Any) -> None:
        """Mark a loss in the recording."""
        if self.marker is not None:
            self.marker(name, status.symbol, facts)

    # connections

    def on_connecting(self, symbols: tuple[str, ...], now_ns: int) -> None:
        """Note that a connection for these symbols is dialled."""
        for status in self.of(symbols):
            if not status.live:
                self.change(status, State.CONNECTING, now_ns)

    def on_connect_failed(self, symbols: tuple[str, ...], reason: str, now_ns: int) -> None:
        """Note that a dial for these symbols failed."""
        for status in self.of(symbols):
            if not status.live:
                self.change(status, State.CONNECTING, now_ns, reason)

    def on_connected(self, connection: int, symbols: tuple[str, ...], now_ns: int) -> None:
        """Note that a connection is open. Numbers of connections count up."""
        self.counts["connects"] += 1
        for status in self.of(symbols):
            first = not status.live
            status.live.add(connection)
            self.entry_of(status).n_links = len(status.live)
            status.subscribed_ns = now_ns
            if first:
                self.entry_of(status).primary = connection
                self.change(status, State.SUBSCRIBED, now_ns)
                self.on_subscribed(status, now_ns)

    def on_disconnected(self, connection: int, reason: str, now_ns: int) -> None:
        """Note the end of a connection. Markets of another live connection go on."""
        self.counts["disconnects"] += 1
        self._reconnects.pop(connection, None)
        self.proven_ns.pop(connection, None)
        self._frames.pop(connection, None)
        for status in self.statuses:
            if connection not in status.live:
                continue
            status.live.discard(connection)
            entry = self.entry_of(status)
            entry.n_links = len(status.live)
            if status.live:
                if entry.primary == connection:
                    entry.primary = max(status.live)
                    self.on_successor(status, now_ns)
                continue
            self.on_unsubscribed(status, now_ns)
            self.change(status, State.DISCONNECTED, now_ns, reason)

    def caught_up(self, connection: int) -> bool:
        """Return whether a new connection has delivered every market that an older one delivers."""
        return all(
            self.entry_of(status).primary == connection or len(status.live) == 1
            for status in self.statuses
            if connection in status.live
        )

    def of(self, symbols: tuple[str, ...]) -> list[Status]:
        """Return the states of those symbols that are collected."""
        known = (self._positions.get(symbol) for symbol in symbols)
        return [self.statuses[index] for index in known if index is not None]

    def entry_of(self, status: Status) -> Any:
        """Return the compiled side of a market."""
        return self.markets[self._positions[status.symbol]]  # type: ignore[attr-defined]

    def on_subscribed(self, status: Status, now_ns: int) -> None:
        """Called when a market has got its first connection."""

    def on_unsubscribed(self, status: Status, now_ns: int) -> None:
        """Called when a market has lost its last connection."""

    def on_successor(self, status: Status, now_ns: int) -> None:
        """Called when a newer connection takes over a market that it has not delivered yet."""

    # wanted requests, frames and reconnects

    def ask(self, request: Request, value: Value) -> None:
        """Add a REST request to the wanted ones."""
        markets = {status.market for status in self.of(request.symbols)}
        tier = 0 if markets & self._first else 1 if markets & self.needed else 2
        if self.demand.add(request, value, tier, self.now_ns):
            self.wanted()

    def take_requests(self) -> list[Request]:
        """Return the REST requests that may be sent now, the most valuable first."""
        taken = self.demand.take(self.now_ns)
        self.counts["requests"] += len(taken)
        for request in taken:
            self.on_asked(request)
        return taken

    def answered(self, request: Request, now_ns: int) -> None:
        """Note that a request was answered, refused or has failed."""
        self.now_ns = now_ns
        self.demand.done(request)

    def on_asked(self, request: Request) -> None:
        """Called when a wanted request is about to be sent."""

    def on_unreadable(self, request: Request, error: Exception, now_ns: int) -> None:
        """Count an answer that cannot be read; log at most one a minute."""
        self.demand.done(request)
        self.counts["unreadable_answers"] += 1
        if self._gate.opens("unreadable", now_ns):
            path, text = request.path[:HEAD_BYTES], plain(repr(error))
            self.log.warning("answer cannot be read", path=path, error=text)

    def absent(self, status: Status, now_ns: int) -> None:
        """Leave a market that REST does not know out of requests for a while."""
        index = self._positions[status.symbol]
        before = self._absent.get(index)
        wait_ns = min(2 * before.wait_ns, ABSENT_LIMIT_NS) if before else ABSENT_NS
        self._absent[index] = Absence(now_ns + wait_ns, wait_ns)
        facts = {"again_in_s": wait_ns // SECOND_NS}
        self.summary.add("warning", "market refused by REST", status.market, **facts)

    def is_absent(self, symbol: str) -> bool:
        """Return whether REST refused a market at the last request."""
        return self._positions.get(symbol) in self._absent

    def may_ask(self, index: int, now_ns: int) -> bool:
        """Return whether REST may be asked for a market."""
        absence = self._absent.get(index)
        return absence is None or now_ns >= absence.until_ns

    def want_reconnect(self, status: Status, reason: str) -> None:
        """Ask for new connections in place of those that deliver a market."""
        for connection in status.live:
            self._reconnects.setdefault(connection, reason)

    def take_reconnects(self) -> dict[int, str]:
        """Return the connections to replace, with the reason."""
        taken, self._reconnects = self._reconnects, {}
        return taken

    def want_frames(self, status: Status, frames: tuple[bytes, ...]) -> None:
        """Ask for frames to be sent on the newest connection of a market."""
        if status.live:
            self._frames.setdefault(max(status.live), []).extend(frames)

    def take_frames(self) -> dict[int, list[bytes]]:
        """Return the frames to send, by connection."""
        taken, self._frames = self._frames, {}
        return taken

    def take_refusal(self, connection: int) -> Refusal | None:
        """Return the error that the exchange sent on a connection, once."""
        return self._refusals.pop(connection, None)

    def on_key_refused(self, reason: str) -> None:
        """Note that a connection goes on without the API key; log it for the first one only."""
        self.counts["keys_refused"] += 1
        if self.counts["keys_refused"] == 1:
            self.log.error(
                "streams without the API key are used until the next start",
                reason=reason,
                setting=f"exchanges.{self.exchange.NAME}.api_key",
            )

    # rare frames

    def on_malformed(self, frame: bytes, received_ns: int, connection: int) -> None:
        """Log a frame that cannot be read, at most one a minute."""
        if self._gate.opens("malformed", self.now_ns):
            self.log.warning(
                "malformed frame",
                size=len(frame),
                head=repr(frame[:HEAD_BYTES]),
                connection=connection,
            )

    def on_failed_frame(self, error: Exception, frame: bytes, now_ns: int) -> None:
        """Count and log an internal error in a frame; the connection goes on."""
        self.counts["failures"] += 1
        if self._gate.opens("failure", now_ns):
            self.log.error(
                "internal error in frame", error=repr(error), head=repr(frame[:HEAD_BYTES])
            )

    def on_control(self, frame: bytes, received_ns: int, connection: int) -> None:
        """Read a message without market data."""
        if len(frame) > CONTROL_BYTES:
            self.on_malformed(frame, received_ns, connection)
            return
        try:
            detail = orjson.loads(frame)
        except orjson.JSONDecodeError:
            self.on_malformed(frame, received_ns, connection)
            return
        # an answer to a ping or a heartbeat: the connection delivers
        self.proven_ns[connection] = self.now_ns
        control = self.parser.control  # type: ignore[attr-defined]
        if control == SHUTDOWN:
            self.counts["shutdowns"] += 1
            self._reconnects.setdefault(connection, "server shutdown")
            self.log.warning("server shutdown announced", connection=connection)
        elif control == ERROR:
            self.counts["error_frames"] += 1
            refusal = self.exchange.refusal_of_frame(detail)
            if refusal.whole:
                self._refusals[connection] = refusal
            self.log.error("refused by the exchange", text=refusal.text, fatal=refusal.fatal)
        elif control == ACK:
            self.counts["acks"] += 1
        elif control == HEARTBEAT:
            parser = self.parser  # type: ignore[attr-defined]
            self.on_heartbeat(parser.symbol_name, parser.trade_id)

    def on_heartbeat(self, symbol: str, trade_id: int) -> None:
        """Called for a heartbeat of a market, with the id of its newest trade."""

    # the exchange's list of markets

    def collects(self, symbol: str) -> bool:
        return symbol in self._positions

    def new_entry(self, index: int, symbol: str, market: str) -> Any:
        """Return the compiled side of a new market."""
        raise NotImplementedError

    def add(self, symbol: str, market: str, now_ns: int, reason: str) -> None:
        """Collect one more market, in the place of one that is gone where there is one."""
        index = self._place(market, now_ns)
        entry = self.new_entry(index, symbol, market)
        status = Status(market, symbol, self.topic(self.sink, self.exchange, market, "state"))
        if index < len(self.statuses):
            del self._gone_ns[index]
            before = self.markets[index]  # type: ignore[attr-defined]
            names = (*self._all_summed(), *self.kept)
            self._past.update({name: getattr(before, name) for name in names})
        self.put(entry)  # type: ignore[attr-defined]
        place(self.statuses, index, status)
        self._positions[symbol] = index
        self.on_added(index)
        status.since_ns, status.since_wall_ns = now_ns, self.wall_ns(now_ns)
        self.change(status, State.CONNECTING, now_ns, reason, change="listed")

    def _place(self, market: str, now_ns: int) -> int:
        free = [
            index
            for index, since_ns in self._gone_ns.items()
            if self.statuses[index].market == market or now_ns - since_ns > GONE_NS
        ]
        # a market has one state: its own place comes first
        return next(
            (index for index in free if self.statuses[index].market == market),
            free[0] if free else len(self.statuses),
        )

    def on_added(self, index: int) -> None:
        """Called when a market was added: state by index begins anew."""

    def remove(self, symbol: str, now_ns: int, reason: str) -> None:
        """Collect a market no more; its state stays `halted`."""
        index = self._positions[symbol]
        status, entry = self.statuses[index], self.entry_of(self.statuses[index])
        self.on_unsubscribed(status, now_ns)
        self.on_removed(index)
        status.live.clear()
        entry.n_links = 0
        self.drop(entry)  # type: ignore[attr-defined]
        del self._positions[symbol]
        self._absent.pop(index, None)
        self._gone_ns[index] = now_ns
        self.change(status, State.HALTED, now_ns, reason, change="delisted")

    def on_removed(self, index: int) -> None:
        """Called when a market is removed, after `on_unsubscribed`."""

    def on_listing(self, change: str, listing: Listing, now_ns: int) -> None:
        """Take a change of the exchange's list; collected markets change their state."""
        self.counts["listing_events"] += 1
        known = self.collects(listing.symbol)
        self.log.info(
            "market list changed", change=change, market=str(listing.market), collected=known
        )
        if not known:
            topic = self.sink.topic(f"state.{self.exchange.NAME}.{listing.market}.".encode())
            status = Status(str(listing.market), listing.symbol, topic, state=State.DISCONNECTED)
            self.change(
                status,
                State.DISCONNECTED,
                now_ns,
                change,
                change=change,
                detail=listing.detail,
                collected=False,
            )
            return
        status = self.statuses[self._positions[listing.symbol]]
        if change in ("halted", "delisted"):
            self.change(status, State.HALTED, now_ns, listing.detail or change, change=change)
        else:
            state: State = (
                State.SYNCED if getattr(self.entry_of(status), "usable", True) else State.SUBSCRIBED
            )
            self.change(status, state, now_ns, change, change=change)
            self._absent.pop(self._positions[listing.symbol], None)

    # watchdogs

    def watch_first_frame(self, status: Status, heard_ns: int, now_ns: int) -> None:
        """Mark a market stale that has been silent since its subscription."""
        if (
            status.live
            and heard_ns < status.subscribed_ns
            and now_ns - status.subscribed_ns > FIRST_FRAME_NS
            and status.state == State.SUBSCRIBED
        ):
            self.counts["first_frame_timeouts"] += 1
            self.change(
                status,
                State.STALE,
                now_ns,
                f"no frame within {FIRST_FRAME_NS // SECOND_NS} s of the subscription:"
                f" is {status.symbol} a symbol of {self.exchange.NAME}?",
            )

    def _all_summed(self) -> tuple[str, ...]:
        return ("backwards", "clock_steps", *self.summed)

    def total(self, name: str) -> int:
        """Return the sum of a counter over all markets since the start."""
        compiled: Any = self
        present: int = sum(getattr(entry, name) for entry in compiled.markets)
        return self._past[name] + present

    def counters(self) -> dict[str, int | float]:
        compiled: Any = self
        found: dict[str, int | float] = {
            "frames": compiled.frames,
            "bytes": compiled.bytes_received,
            "messages": compiled.messages,
            "ignored": compiled.ignored,
            "unknown_symbols": compiled.unknown_symbols,
            "malformed": compiled.malformed,
            "controls": compiled.controls,
            "levels_dropped": compiled.parser.levels_dropped,
            "template_misses": compiled.parser.template_misses,
            "published": self.sink.published,
            "rest_waiting": len(self.demand),
            "absent_markets": len(self._absent),
            **self.counts,
        }
        found.update(
            (f'frames_refused{{reason="{reason}"}}', count)
            for reason, count in compiled.parser.refusals().items()
        )
        paired = [entry.links for entry in compiled.markets if entry.links is not None]
        for name in ("confirmed", "disagreed", "unmatched") if paired else ():
            found[f"links_{name}"] = sum(getattr(links, name) for links in paired)
        for name in self._all_summed():
            found[name] = self.total(name)
        found["synced"] = sum(status.state == State.SYNCED for status in self.statuses)
        found["markets"] = len(self._positions)
        found.update(
            (f'market_frames{{market="{entry.market}"}}', entry.frames)
            for entry in compiled.markets
        )
        return found
