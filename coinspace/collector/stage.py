"""What both stages of an exchange share: states as messages, requests for REST, judgement of
control frames.

A stage is sans-I/O. In come frames, answers and the time; out go messages into a sink and wishes
that a worker (or nobody, in a replay) fulfils: `take_requests`, `take_reconnects`.

Every `now_ns` is the steady clock, by which durations are measured; frames bring the wall clock of
their receipt as well, which is published. In a replay the feed's time is both.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, ClassVar

import orjson
import structlog

from coinspace._ext.message import STATE
from coinspace._ext.sink import Sink
from coinspace.clock import SECOND_NS, Clock
from coinspace.collector.demand import Demand, Value, budget
from coinspace.exchanges.exchange import Exchange, Listing, Refusal, Request, Stream, plain


class State(StrEnum):
    """What is published of a market."""

    CONNECTING = "connecting"
    SUBSCRIBED = "subscribed"
    BUFFERING = "buffering"
    SYNCED = "synced"
    STALE = "stale"
    QUARANTINED = "quarantined"
    DISCONNECTED = "disconnected"
    HALTED = "halted"


# states that follow from a connection's
LINK_STATES = frozenset({State.CONNECTING, State.SUBSCRIBED, State.DISCONNECTED})
# states that follow from what a connection brings
DATA_STATES = frozenset({State.BUFFERING, State.SYNCED, State.STALE, State.QUARANTINED})
# a connection can end and an exchange can halt a market at any time; beside that, states change so
CHANGES: dict[State, frozenset[State]] = {
    State.CONNECTING: frozenset({State.CONNECTING, State.SUBSCRIBED}),
    State.SUBSCRIBED: DATA_STATES | {State.SUBSCRIBED},
    **dict.fromkeys(DATA_STATES, DATA_STATES | {State.SUBSCRIBED}),
    State.DISCONNECTED: frozenset({State.CONNECTING, State.SUBSCRIBED}),
    # what is listed again may bring data at once
    State.HALTED: frozenset({State.CONNECTING, State.SUBSCRIBED}) | DATA_STATES,
}
ANY_TIME = frozenset({State.DISCONNECTED, State.HALTED})


def may_change(before: State, after: State) -> bool:
    """Tell whether a market's state may follow another one."""
    return before == after or after in ANY_TIME or after in CHANGES[before]


# bad frames are all counted; one of them is logged in this time
LOG_INTERVAL_NS = 60 * SECOND_NS
HEAD_BYTES = 120
# an unknown symbol is silent on all three exchanges
FIRST_FRAME_NS = 10 * SECOND_NS
# a market that REST does not know is asked for again, alone, after this time, doubling
ABSENT_NS = 30 * SECOND_NS
ABSENT_LIMIT_NS = 3600 * SECOND_NS


@dataclass(slots=True)
class Status:
    """One market's state and what its watchdogs need."""

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
    # last time at which the data was known to be right: a frame, or REST that agrees
    confirmed_ns: int = 0


@dataclass(slots=True)
class Absence:
    """How long REST is not asked for a market, and for how long after the next refusal."""

    until_ns: int
    wait_ns: int = ABSENT_NS


class Stage:
    """Mixin of a compiled collector: what it does besides the hot path."""

    stream: Stream
    # what a subclass counts besides what all stages do
    counted: ClassVar[tuple[str, ...]] = ()
    exchange: Exchange
    sink: Sink
    now_ns: int
    # the wall clock; None where `now_ns` runs with it
    wall: Clock | None = None

    @classmethod
    def topic(cls, sink: Sink, exchange: Exchange, market: str, kind: str = "") -> Any:
        """Return the topic of a market's messages, the stream's own by default."""
        return sink.topic(f"{kind or cls.stream}.{exchange.NAME}.{market}.".encode())

    def __init__(
        self,
        exchange: Exchange,
        entries: list[tuple[str, str]],
        sink: Sink,
        needed: Collection[str] = (),
    ) -> None:
        """Take (symbol, market) pairs; called when the compiled side is there.

        Args: needed: markets that the index needs, whose wishes go first.
        """
        self.exchange = exchange
        self.log = structlog.get_logger(f"{self.stream}-{exchange.NAME}")
        self.statuses = [
            Status(market, symbol, self.topic(sink, exchange, market, "state"))
            for symbol, market in entries
        ]
        self._positions = {status.symbol: i for i, status in enumerate(self.statuses)}
        self.needed = frozenset(needed)
        self.demand = Demand(budget(exchange, self.stream))
        # by index: markets that REST refused, because they are delisted or not there yet
        self._absent: dict[int, Absence] = {}
        self._reconnects: dict[int, str] = {}
        self._refusals: dict[int, Refusal] = {}
        self._logged_ns: dict[str, int] = {}
        # called when something is wanted, so that it need not wait for the next look
        self.wanted: Callable[[], None] = lambda: None
        # told of losses, for a recording: (name, symbol, facts)
        self.marker: Callable[[str, str, dict[str, Any]], None] | None = None
        self.counts: dict[str, int] = dict.fromkeys(
            (
                "connects",
                "disconnects",
                "error_frames",
                "acks",
                "shutdowns",
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
        """Return the wall clock at an event, for what is published."""
        return self.wall() if self.wall is not None else now_ns

    # states

    def change(
        self, status: Status, state: State, now_ns: int, reason: str | None = None, **details: Any
    ) -> None:
        """Move a market to a state; the change is a message."""
        if status.state == state and status.reason == reason and not details:
            return
        previous, status.state, status.reason = status.state, state, reason
        if not may_change(previous, state):
            self.counts["impossible_changes"] += 1
            self.log.error("impossible change", market=status.market, state=state, before=previous)
        wall_ns = self.wall_ns(now_ns)
        if previous != state:
            status.since_ns, status.since_wall_ns = now_ns, wall_ns
        payload = {
            "exchange": self.exchange.NAME,
            "market": status.market,
            "stream": self.stream,
            "state": state,
            "previous": previous,
            "reason": reason,
            "since_ns": status.since_wall_ns,
            **details,
        }
        self.sink.publish(status.topic, STATE, orjson.dumps(payload), received_ns=wall_ns)
        level = self.log.info if state == State.SYNCED else self.log.warning
        if state in LINK_STATES or (previous in (*LINK_STATES, "buffering") and not reason):
            # its connection logs that, for all of its markets at once
            level = self.log.debug
        level("state", market=status.market, state=state, reason=reason, **details)

    @property
    def states(self) -> dict[str, str]:
        """State by market, for the heartbeat."""
        return {status.market: status.state for status in self.statuses}

    def mark(self, name: str, status: Status, **facts: Any) -> None:
        """Tell a recording of a loss at this place."""
        if self.marker is not None:
            self.marker(name, status.symbol, facts)

    # connections

    def on_connecting(self, symbols: tuple[str, ...], now_ns: int) -> None:
        """A connection for these symbols is being made."""
        for status in self.of(symbols):
            if not status.live:
                self.change(status, State.CONNECTING, now_ns)

    def on_connect_failed(self, symbols: tuple[str, ...], reason: str, now_ns: int) -> None:
        """A connection for these symbols could not be made."""
        for status in self.of(symbols):
            if not status.live:
                self.change(status, State.CONNECTING, now_ns, reason)

    def on_connected(self, connection: int, symbols: tuple[str, ...], now_ns: int) -> None:
        """A connection is open and its subscription sent. Numbers of connections count up."""
        self.counts["connects"] += 1
        for status in self.of(symbols):
            first = not status.live
            status.live.add(connection)
            status.subscribed_ns = now_ns
            if first:
                self.entry_of(status).primary = connection
                self.change(status, State.SUBSCRIBED, now_ns)
                self.on_subscribed(status, now_ns)

    def on_disconnected(self, connection: int, reason: str, now_ns: int) -> None:
        """A connection ended. Markets that another one still delivers go on."""
        self.counts["disconnects"] += 1
        self._reconnects.pop(connection, None)
        for status in self.statuses:
            if connection not in status.live:
                continue
            status.live.discard(connection)
            entry = self.entry_of(status)
            if status.live:
                if entry.primary == connection:
                    entry.primary = max(status.live)
                continue
            self.on_unsubscribed(status, now_ns)
            self.change(status, State.DISCONNECTED, now_ns, reason)

    def caught_up(self, connection: int) -> bool:
        """Tell whether a newer connection has delivered every market that an older one still
        does.
        """
        return all(
            self.entry_of(status).primary == connection or len(status.live) == 1
            for status in self.statuses
            if connection in status.live
        )

    def of(self, symbols: tuple[str, ...]) -> list[Status]:
        """Return the states of symbols."""
        return [self.statuses[self._positions[symbol]] for symbol in symbols]

    def entry_of(self, status: Status) -> Any:
        """Return the compiled side of a market."""
        return self.markets[self._positions[status.symbol]]  # type: ignore[attr-defined]

    def on_subscribed(self, status: Status, now_ns: int) -> None:
        """A market got its first connection."""

    def on_unsubscribed(self, status: Status, now_ns: int) -> None:
        """A market lost its last connection."""

    # wishes

    def ask(self, request: Request, value: Value) -> None:
        """Wish for a REST answer."""
        needed = any(status.market in self.needed for status in self.of(request.symbols))
        if self.demand.add(request, value, needed, self.now_ns):
            self.wanted()

    def take_requests(self) -> list[Request]:
        """Return the REST requests that may be made now, the most valuable first."""
        taken = self.demand.take(self.now_ns)
        self.counts["requests"] += len(taken)
        for request in taken:
            self.on_asked(request)
        return taken

    def on_asked(self, request: Request) -> None:
        """A wish becomes a request."""

    def on_unreadable(self, request: Request, error: Exception, now_ns: int) -> None:
        """Count and, once a minute, log an answer of an unexpected shape."""
        self.demand.done(request)
        self.counts["unreadable_answers"] += 1
        if self.may_log("unreadable", now_ns):
            path, text = request.path[:HEAD_BYTES], plain(repr(error))
            self.log.warning("answer not readable", path=path, error=text)

    def absent(self, status: Status, now_ns: int) -> None:
        """Leave a market that REST does not know out of the next requests."""
        index = self._positions[status.symbol]
        before = self._absent.get(index)
        wait_ns = min(2 * before.wait_ns, ABSENT_LIMIT_NS) if before else ABSENT_NS
        self._absent[index] = Absence(now_ns + wait_ns, wait_ns)
        self.log.warning(
            "market refused by REST", market=status.market, again_in_s=wait_ns // SECOND_NS
        )

    def is_absent(self, symbol: str) -> bool:
        """Tell whether REST did not know a market when it was last asked."""
        return self._positions[symbol] in self._absent

    def may_ask(self, index: int, now_ns: int) -> bool:
        """Tell whether REST may be asked for a market."""
        absence = self._absent.get(index)
        return absence is None or now_ns >= absence.until_ns

    def want_reconnect(self, status: Status, reason: str) -> None:
        """Wish for new connections in place of those that deliver a market."""
        for connection in status.live:
            self._reconnects.setdefault(connection, reason)

    def take_reconnects(self) -> dict[int, str]:
        """Return the connections to replace, with the reason."""
        taken, self._reconnects = self._reconnects, {}
        return taken

    def take_refusal(self, connection: int) -> Refusal | None:
        """Return what the exchange said when it sent an error on a connection, once."""
        return self._refusals.pop(connection, None)

    # rare frames

    def may_log(self, what: str, now_ns: int) -> bool:
        """Tell whether something that can repeat is due to be logged."""
        if now_ns - self._logged_ns.get(what, -LOG_INTERVAL_NS) < LOG_INTERVAL_NS:
            return False
        self._logged_ns[what] = now_ns
        return True

    def on_malformed(self, frame: bytes, received_ns: int, connection: int) -> None:
        """Count and, once a minute, log a frame that cannot be read."""
        if self.may_log("malformed", self.now_ns):
            self.log.warning(
                "malformed frame",
                size=len(frame),
                head=repr(frame[:HEAD_BYTES]),
                connection=connection,
            )

    def on_failed_frame(self, error: Exception, frame: bytes, now_ns: int) -> None:
        """Count and log an error of ours while a frame was read: the connection goes on."""
        self.counts["failures"] += 1
        if self.may_log("failure", now_ns):
            self.log.error("frame not handled", error=repr(error), head=repr(frame[:HEAD_BYTES]))

    def on_control(self, frame: bytes, received_ns: int, connection: int) -> None:
        """Read a frame that is no market data."""
        try:
            detail = orjson.loads(frame)
        except orjson.JSONDecodeError:
            self.on_malformed(frame, received_ns, connection)
            return
        inner = detail.get("data", detail)
        if inner.get("e") == "serverShutdown":
            self.counts["shutdowns"] += 1
            self._reconnects.setdefault(connection, "server shutdown")
            self.log.warning("server shutdown announced", connection=connection)
        elif detail.get("error") or "code" in detail:
            self.counts["error_frames"] += 1
            refusal = self.exchange.refusal_of_frame(detail)
            self._refusals[connection] = refusal
            self.log.error("refused by the exchange", text=refusal.text, fatal=refusal.fatal)
        elif "result" in detail:
            self.counts["acks"] += 1

    # the exchange's list of markets

    def on_listing(self, change: str, listing: Listing, now_ns: int) -> None:
        """Take a change of the exchange's list: halted and delisted markets of ours change their
        state.
        """
        self.counts["listing_events"] += 1
        known = listing.symbol in self._positions
        self.log.info("market list", change=change, market=str(listing.market), collected=known)
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
            if change == "listed":
                # the subscription of before may not reach it
                self.want_reconnect(status, f"{status.market} is listed again")

    # watchdogs

    def watch_first_frame(self, status: Status, heard_ns: int, now_ns: int) -> None:
        """Tell a market that has been silent since its subscription."""
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

    def counters(self) -> dict[str, int | float]:
        """Return everything counted, by name."""
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
        for name in ("backwards", "clock_steps"):
            found[name] = sum(getattr(entry, name) for entry in compiled.markets)
        found.update(
            (f'market_frames{{market="{entry.market}"}}', entry.frames)
            for entry in compiled.markets
        )
        return found
