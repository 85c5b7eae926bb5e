"""The newest state from the bus, which the API serves without the database.

Books, tickers and trades are kept as messages. They are converted to text only for a request, so
that a message costs one dictionary entry.
"""

from __future__ import annotations

import fnmatch
from collections import deque
from collections.abc import Callable, Container
from statistics import median
from typing import Any

import msgspec

from coinspace._ext.message import (
    AGGREGATE,
    FACT,
    HEARTBEAT,
    INDEX,
    ORDERBOOK,
    RATE,
    STATE,
    TICKER,
    TRADE,
    Message,
)
from coinspace.clock import MILLISECOND_NS, SECOND_NS, Clock, monotonic_ns, now_ns
from coinspace.config import Settings
from coinspace.endpoint.live.age import StaleReason, stale_reason
from coinspace.endpoint.models import Basis, IndexValue
from coinspace.endpoint.records import index_value
from coinspace.errors import MarketError, MessageError
from coinspace.exchanges.facts import UNKNOWN, Facts, decode_facts
from coinspace.instant import LATEST_MS
from coinspace.market import Market
from coinspace.method.aggregate import Aggregate
from coinspace.method.aggregate import decode as decode_aggregate
from coinspace.method.record import IndexRecord, decode
from coinspace.method.reference import Quotation, decode_quotation
from coinspace.text import LIMIT

TRADES_KEPT = 1000
GAPS_KEPT = 1000
# most topics that are kept; three exchanges with 700 markets each have 9,000
TOPICS_KEPT = 30_000
# each market's facts come again within three minutes, the more often the fewer markets there are
FACTS_NS = 300 * SECOND_NS
# a process's latency is the median over this many messages
LATENCIES_KEPT = 101
# kind of message -> process that publishes it, without the exchange's name
PUBLISHERS = {
    ORDERBOOK: "orderbook-collector-",
    TICKER: "ticker-collector-",
    AGGREGATE: "orderbook-aggregator",
    INDEX: "index-calculator",
}

Listener = Callable[[Message], None]


class Latest:
    """The newest record of one index, which has just arrived, and its JSON without the age.

    Args: before: the record before it.
    """

    __slots__ = ("head", "heard_ns", "null_ns", "record", "ts_ms", "value")

    def __init__(self, record: IndexRecord, before: Latest | None = None) -> None:
        self.record = record
        # when it arrived, and since when the index has no value, by the monotonic clock
        self.heard_ns = monotonic_ns()
        self.null_ns: int | None = None
        if record.value is None:
            known = None if before is None else before.null_ns
            self.null_ns = self.heard_ns if known is None else known
        self.value: IndexValue = index_value(record)
        self.ts_ms = self.value.ts
        # each answer appends its age
        self.head = msgspec.json.encode(self.value)[:-1]

    def premium(self, basis: Basis) -> float | None:
        """Return the premium on a basis, None without one."""
        parts = self.record.premium_parts
        if parts is None or self.value.premium is None:
            return None
        return parts.b if basis == "coin" else parts.a

    def age_ms(self, now_ms: int) -> int:
        """Return the age of the value; below 0 when its time is in the future."""
        return now_ms - self.ts_ms

    def stale_reason(self, now_ms: int, stale_ms: int) -> StaleReason | None:
        """Return why the value is stale, None = it is not."""
        heard_ms = (monotonic_ns() - self.heard_ns) // MILLISECOND_NS
        return stale_reason(self.age_ms(now_ms), heard_ms, stale_ms)

    def failed(self, allowed_s: float) -> bool:
        """Return whether the index has had no value for a time or longer."""
        if self.null_ns is None:
            return False
        # the calculator may have run longer than this process
        return bool(self.record.failed) or monotonic_ns() - self.null_ns >= allowed_s * SECOND_NS

    def problem(self, now_ms: int, stale_ms: int) -> str | None:
        """Return a text why the value is stale and what to do, None = it is not stale."""
        age_ms = self.age_ms(now_ms)
        match self.stale_reason(now_ms, stale_ms):
            case "future":
                return (
                    f"the newest {self.value.asset} index is {-age_ms} ms in the future:"
                    " check the clocks of this host and of the calculator's host"
                )
            case "old":
                return f"the {self.value.asset} index is {age_ms} ms old"
            case "silent":
                return f"no new {self.value.asset} index has arrived for {stale_ms} ms or longer"
        return None

    def body(self, now_ms: int, stale_ms: int) -> bytes:
        """Return the JSON of LatestIndexValue."""
        reason = self.stale_reason(now_ms, stale_ms)
        return b'%b,"age_ms":%d,"stale":%b,"stale_reason":%b}' % (
            self.head,
            self.age_ms(now_ms),
            b"true" if reason else b"false",
            b'"%b"' % reason.encode() if reason else b"null",
        )


class Live:
    """Applies bus messages; has no socket.

    Attributes:
        indices: asset -> Latest. aggregates: asset -> message.
        books: (exchange, market) -> newest book message; `alive_ns` is its last sign of life.
        tickers: (exchange, market) -> message. trades: (exchange, market) -> newest trades.
        states: (exchange, market) -> state message's JSON.
        facts: (exchange, market) -> facts beside the price, when they were received (wall clock)
        and when they arrived (monotonic clock).
        quotations: source -> its last quotation of USD/KRW.
        heartbeats: process -> when the newest one arrived, by the monotonic clock.
        heard: topic -> when the newest message arrived, by the monotonic clock.
        on_asset: called with each asset whose index begins while this process runs.
        refused: ignored messages of markets and indices that are not configured.
        gaps: losses on the bus that this process noticed itself, newest last.
        latencies: process -> ns from receipt (for aggregator and calculator: from the tick) to
        publishing, newest last.
    """

    def __init__(self, clock: Clock = now_ns, settings: Settings | None = None) -> None:
        self.clock = clock
        self._settings = settings
        self.indices: dict[str, Latest] = {}
        self.aggregates: dict[str, Message] = {}
        self.books: dict[tuple[str, str], Message] = {}
        self.alive_ns: dict[tuple[str, str], int] = {}
        self.updates: dict[tuple[str, str], int] = {}
        self.tickers: dict[tuple[str, str], Message] = {}
        self.trades: dict[tuple[str, str], deque[Message]] = {}
        self.states: dict[tuple[str, str], dict[str, Any]] = {}
        self.heartbeats: dict[str, int] = {}
        self.quotations: dict[str, Quotation] = {}
        self.facts: dict[tuple[str, str], tuple[Facts, int, int]] = {}
        self.gaps: deque[dict[str, Any]] = deque(maxlen=GAPS_KEPT)
        self.gaps_total = 0
        self.latencies: dict[str, deque[int]] = {}
        self.messages = 0
        self.malformed = 0
        self.refused = 0
        self.heard: dict[bytes, int] = {}
        self.listeners: list[Listener] = []
        self.on_asset: Callable[[str], None] = lambda asset: None
        self._keys: dict[bytes, tuple[str, str]] = {}
        self._stages: dict[bytes, deque[int]] = {}
        self._apply: dict[int, Listener] = {
            ORDERBOOK: self._orderbook,
            TICKER: self._ticker,
            TRADE: self._trade,
            STATE: self._state,
            AGGREGATE: self._aggregate,
            INDEX: self._index,
            HEARTBEAT: self._heartbeat,
            RATE: self._quotation,
            FACT: self._facts,
        }

    def on_message(self, message: Message) -> None:
        """Apply one message; a malformed one is counted and ignored."""
        self.messages += 1
        topic = message.topic
        kept = self._stages.get(topic)
        if kept is None:
            if not self._expected(message):
                self.refused += 1
                return
            kept = self._stages[topic] = self._stage(message)
        try:
            self._apply[message.kind](message)
        except (MessageError, ValueError, KeyError, TypeError, AttributeError, OverflowError):
            self.malformed += 1
            return
        self.heard[topic] = monotonic_ns()
        kept.append(message.published_ns - message.received_ns)
        for listener in self.listeners:
            listener(message)

    def heard_ms(self, message: Message) -> int:
        """Return the ms since the topic's newest message arrived, by the monotonic clock."""
        return (monotonic_ns() - self.heard.get(message.topic, 0)) // MILLISECOND_NS

    def _expected(self, message: Message) -> bool:
        # a publisher must not be able to fill this process's memory
        if len(self._stages) >= TOPICS_KEPT:
            return False
        settings = self._settings
        if settings is None or message.kind == HEARTBEAT:
            return True
        if message.kind in (AGGREGATE, INDEX):
            asset = _asset(message)
            if settings.index.admit(asset):
                self.on_asset(asset)
            return asset in settings.index.assets
        if message.kind == RATE:
            return message.exchange in settings.rates.sources
        return self._collected(message.exchange, message.market)

    def _collected(self, exchange: str, market: str) -> bool:
        try:
            # the routes read the names of markets
            Market.parse(market)
        except MarketError:
            return False
        if self._settings is None:
            return True
        section = self._settings.exchanges.get(exchange)
        return section is not None and any(
            market == one or ("*" in one and fnmatch.fnmatchcase(market, one))
            for one in section.markets
        )

    def latency_us(self, process: str) -> int | None:
        """Return the median latency of a process over its last messages; None without any."""
        kept = self.latencies.get(process)
        return int(median(kept)) // 1000 if kept else None

    def _stage(self, message: Message) -> deque[int]:
        process = PUBLISHERS.get(message.kind)
        if process is None or message.received_ns <= 0:
            # a message without a receive time has no latency
            return deque(maxlen=0)
        if process.endswith("-"):
            process += self.key(message)[0]
        return self.latencies.setdefault(process, deque(maxlen=LATENCIES_KEPT))

    def on_gap(self, topic: bytes, epoch: int, expected: int, found: int) -> None:
        """Record messages that the bus lost on the way to this process."""
        parts = topic.decode().split(".")
        market = len(parts) > 3
        self.gaps_total += 1
        self.gaps.append(
            {
                "ts": self.clock() // MILLISECOND_NS,
                "publisher": "index-endpoint",
                "exchange": parts[1] if market else None,
                "market": parts[2] if market else None,
                "kind": parts[0],
                "status": "lost",
                "reason": "bus",
                "first": expected,
                "last": found - 1,
                "count": max(0, found - expected),
                "closed": None,
            }
        )

    def key(self, message: Message) -> tuple[str, str]:
        """Return (exchange, market) of a message; each topic is split only once."""
        key = self._keys.get(message.topic)
        if key is None:
            key = self._keys[message.topic] = (message.exchange, message.market)
        return key

    def _orderbook(self, message: Message) -> None:
        key = self.key(message)
        self.alive_ns[key] = message.received_ns
        self.updates[key] = self.updates.get(key, 0) + 1
        self.books[key] = message

    def _ticker(self, message: Message) -> None:
        self.tickers[self.key(message)] = message

    def _trade(self, message: Message) -> None:
        key = self.key(message)
        kept = self.trades.get(key)
        if kept is None:
            kept = self.trades[key] = deque(maxlen=TRADES_KEPT)
        kept.append(message)

    def _state(self, message: Message) -> None:
        state = message.json()
        if (state["exchange"], state["market"]) != self.key(message):
            raise ValueError(f"state: expected the market of {message.topic!r}, was another one")
        self.states[state["exchange"], state["market"]] = _checked(state)

    def _aggregate(self, message: Message) -> None:
        self.aggregates[_asset(message)] = message

    def aggregate(self, asset: str) -> tuple[Message, Aggregate] | None:
        """Return the newest summed book of an asset with its message; None without one.

        It is read only for a request: one that cannot be read is counted and dropped here.
        """
        message = self.aggregates.get(asset)
        if message is None:
            return None
        try:
            return message, decode_aggregate(message.payload)
        except MessageError:
            self.malformed += 1
            del self.aggregates[asset]
            return None

    def _quotation(self, message: Message) -> None:
        found = decode_quotation(message)
        self.quotations[found.source] = found

    def _facts(self, message: Message) -> None:
        found = decode_facts(message.payload)
        self.facts[self.key(message)] = found, message.received_ns, monotonic_ns()

    def facts_of(self, exchange: str, market: str) -> tuple[Facts, int | None]:
        """Return a market's facts and when its collector published them; old ones are unknown."""
        found = self.facts.get((exchange, market))
        if found is None or monotonic_ns() - found[2] > FACTS_NS:
            return UNKNOWN, None
        return found[0], found[1]

    def _index(self, message: Message) -> None:
        record = decode(message.payload)
        if record.asset != _asset(message):
            raise ValueError(f"record: expected the asset of {message.topic!r}, was another one")
        if not 0 <= record.ts_ms <= LATEST_MS:
            raise ValueError(f"record: expected a time in ms, was {record.ts_ms}")
        self.indices[record.asset] = Latest(record, self.indices.get(record.asset))

    def _heartbeat(self, message: Message) -> None:
        beat = message.json()
        process = str(beat["process"])
        if message.topic != b"heartbeat.%b." % process.encode():
            raise ValueError(f"heartbeat: expected the process of {message.topic!r}, was {process}")
        self.heartbeats[process] = monotonic_ns()
        if not process.startswith("orderbook-collector-"):
            return
        exchange = process.removeprefix("orderbook-collector-")
        states = beat.get("states") or {}
        if states:
            self._keep(exchange, states)
        for market, state in states.items():
            known = self.states.get((exchange, market))
            if not isinstance(state, str) or (known is None and not self._room(exchange, market)):
                self.refused += 1
                continue
            if known is None or known.get("state") != state:
                self.states[exchange, market] = {
                    "exchange": exchange,
                    "market": market,
                    "state": state,
                    "reason": None,
                    "since_ns": None,
                }

    def _keep(self, exchange: str, markets: Container[str]) -> None:
        # the others are not collected any more
        gone = [key for key in self.states if key[0] == exchange and key[1] not in markets]
        kept: tuple[dict[tuple[str, str], Any], ...] = (
            *(self.states, self.books, self.alive_ns),
            *(self.updates, self.tickers, self.trades, self.facts),
        )
        for key in gone:
            for known in kept:
                known.pop(key, None)

    def _room(self, exchange: str, market: str) -> bool:
        return len(self.states) < TOPICS_KEPT and self._collected(exchange, market)

    def counters(self) -> dict[str, int]:
        """Counters for the health file."""
        return {
            "messages": self.messages,
            "malformed": self.malformed,
            "refused": self.refused,
            "bus_gaps": self.gaps_total,
            "indices": len(self.indices),
            "books": len(self.books),
        }


def _checked(state: dict[str, Any]) -> dict[str, Any]:
    """Return a state message's JSON. Raises: TypeError for fields of another type."""
    name, reason, since_ns = state["state"], state.get("reason"), state.get("since_ns")
    types = (name, str), (reason, str | None), (since_ns, int | None)
    if not all(isinstance(value, kind) for value, kind in types):
        raise TypeError("state: expected texts and a time")
    return state | {"state": name[:LIMIT], "reason": reason and reason[:LIMIT]}


def _asset(message: Message) -> str:
    return message.topic.split(b".")[1].decode()
