"""The newest state of everything, from the bus: what the API answers without the database.

Books, tickers and trades are kept as the messages they came in; they are turned into text only
when somebody asks, so a message costs a dictionary entry.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from statistics import median
from typing import Any

import msgspec

from coinspace._ext.message import (
    AGGREGATE,
    HEARTBEAT,
    INDEX,
    ORDERBOOK,
    STATE,
    TICKER,
    TRADE,
    Message,
)
from coinspace.clock import MILLISECOND_NS, Clock, now_ns
from coinspace.endpoint.models import IndexValue
from coinspace.endpoint.records import index_value

TRADES_KEPT = 1000
GAPS_KEPT = 1000
# a stage's latency is the median over so many messages
LATENCIES_KEPT = 101
# kind of message -> process that publishes it; + its exchange where there are several
PUBLISHERS = {
    ORDERBOOK: "orderbook-collector-",
    TICKER: "ticker-collector-",
    AGGREGATE: "orderbook-aggregator",
    INDEX: "index-calculator",
}

Listener = Callable[[Message], None]


class Latest:
    """The newest record of one index and its JSON, all but the age."""

    __slots__ = ("head", "record", "ts_ms", "value")

    def __init__(self, record: dict[str, Any]) -> None:
        self.record = record
        self.value: IndexValue = index_value(record)
        self.ts_ms = self.value.ts
        # the age differs from answer to answer and is put behind this
        self.head = msgspec.json.encode(self.value)[:-1]

    def age_ms(self, now_ms: int) -> int:
        """Age of the value; never negative."""
        return max(0, now_ms - self.ts_ms)

    def body(self, now_ms: int, stale_ms: int) -> bytes:
        """Return the JSON of LatestIndexValue."""
        age = max(0, now_ms - self.ts_ms)
        return b'%b,"age_ms":%d,"stale":%b}' % (
            self.head,
            age,
            b"true" if age > stale_ms else b"false",
        )


class Live:
    """Applies bus messages; knows no socket.

    Attributes:
        indices: asset -> Latest. aggregates: asset -> message.
        books: (exchange, market) -> newest book message; `alive_ns` its last proof of life.
        tickers: (exchange, market) -> message. trades: (exchange, market) -> newest trades.
        states: (exchange, market) -> state message's JSON. heartbeats: process -> received ns.
        gaps: losses that this process saw itself on the bus, newest last.
        latencies: process -> ns from receipt (the tick, for aggregator and calculator) to
        publishing, newest last.
    """

    def __init__(self, clock: Clock = now_ns) -> None:
        self.clock = clock
        self.indices: dict[str, Latest] = {}
        self.aggregates: dict[str, Message] = {}
        self.books: dict[tuple[str, str], Message] = {}
        self.alive_ns: dict[tuple[str, str], int] = {}
        self.updates: dict[tuple[str, str], int] = {}
        self.tickers: dict[tuple[str, str], Message] = {}
        self.trades: dict[tuple[str, str], deque[Message]] = {}
        self.states: dict[tuple[str, str], dict[str, Any]] = {}
        self.heartbeats: dict[str, int] = {}
        self.gaps: deque[dict[str, Any]] = deque(maxlen=GAPS_KEPT)
        self.gaps_total = 0
        self.latencies: dict[str, deque[int]] = {}
        self.messages = 0
        self.malformed = 0
        self.last_ns = 0
        self.listeners: list[Listener] = []
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
        }

    def on_message(self, message: Message) -> None:
        """Apply one message; one that cannot be read is counted and left out."""
        self.messages += 1
        self.last_ns = self.clock()
        try:
            self._apply[message.kind](message)
        except (ValueError, KeyError, TypeError, AttributeError):
            self.malformed += 1
            return
        kept = self._stages.get(message.topic)
        if kept is None:
            kept = self._stages[message.topic] = self._stage(message)
        kept.append(message.published_ns - message.received_ns)
        for listener in self.listeners:
            listener(message)

    def latency_us(self, process: str) -> int | None:
        """Median latency of a process over its last messages; None where there are none."""
        kept = self.latencies.get(process)
        return int(median(kept)) // 1000 if kept else None

    def _stage(self, message: Message) -> deque[int]:
        process = PUBLISHERS.get(message.kind)
        if process is None or message.received_ns <= 0:
            # what was not received has no latency
            return deque(maxlen=0)
        if process.endswith("-"):
            process += self.key(message)[0]
        return self.latencies.setdefault(process, deque(maxlen=LATENCIES_KEPT))

    def on_gap(self, topic: bytes, epoch: int, expected: int, found: int) -> None:
        """Note messages that the bus lost on the way to this process."""
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
        """Return (exchange, market) of a message; topics are few, so each is split once."""
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
        self.states[state["exchange"], state["market"]] = state

    def _aggregate(self, message: Message) -> None:
        self.aggregates[message.topic.split(b".")[1].decode()] = message

    def _index(self, message: Message) -> None:
        record = message.json()
        self.indices[record["asset"]] = Latest(record)

    def _heartbeat(self, message: Message) -> None:
        beat = message.json()
        self.heartbeats[beat["process"]] = self.clock()
        exchange = str(beat["process"]).rpartition("-")[2]
        if not str(beat["process"]).startswith("orderbook-collector-"):
            return
        for market, state in (beat.get("states") or {}).items():
            known = self.states.get((exchange, market))
            if known is None or known.get("state") != state:
                self.states[exchange, market] = {
                    "exchange": exchange,
                    "market": market,
                    "state": state,
                    "reason": None,
                    "since_ns": None,
                }

    def counters(self) -> dict[str, int]:
        """Counters for the health file."""
        return {
            "messages": self.messages,
            "malformed": self.malformed,
            "bus_gaps": self.gaps_total,
            "indices": len(self.indices),
            "books": len(self.books),
        }
