"""Faults of the simulated exchanges, written as `KIND:EXCHANGE[:SYMBOL][:key=value]…`.

Frames (of a symbol, or all; channel=orderbook|ticker|trade):
  drop duplicate reorder truncate garbage flip   as named; flip changes one byte
  digit     changes a digit in the size of a level: the frame stays valid
  delay     sent ms=500 later, in order; jitter=20 adds up to so many ms, drawn for each frame
  huge      bytes=4000000 of padding inside the JSON
  split     n=3 continuation frames              chop      n=3 writes, ms=5 apart
  coalesce  n=10 frames in one write
  stall     kept back, then sent all at once     mute      dropped, while pongs go on
New connections (every one while the fault is in force):
  refuse        the port is closed; needs `for`, as the control address has the same port
  accept-close accept-reset accept-hang    closed, reset or never answered after the TCP accept
  tls-close tls-hang    closed or never answered after the client's first bytes (with TLS)
  request-close request-reset request-hang    the same after a WebSocket request
  half-header half-header-close    a part of the answer's header, then nothing, or closed
  wrong-key     an answer to another handshake
  Before the request the exchange is unknown: EXCHANGE must be `*` or the only one served.
Open connections (at `after`; with `for` also later ones during that time; every=SECONDS repeats):
  halfopen  nothing is read or sent any more     reset     TCP reset
  close     code=1001, reason=TEXT               error     an error frame, then close 1000
  cut       closed without a close frame
  shutdown  serverShutdown if the exchange has this event, close n=5 s later
  revoke    connections with an API key are closed; the key is refused while it is in force
Requests:
  rest      status=429|418|500|503, retry=SECONDS, path=PART, ms=DELAY, status=0 only delays
  handshake status=429, ms=DELAY, status=0 never answers
  stale     depth answers with the book from the fault's beginning
  facts     form=html and others, see `WHOLE` in `coinspace/simulator/rates.py`: what is answered
            when wallets, warnings, notices or the state of the exchange are asked for
Markets (simulated exchanges; a symbol is needed):
  halt      listed as halted or suspended, no orders and trades
  delist    removed from the lists, its frames end
  wallet    deposits and withdrawals of the market's coin are closed
  warn      the exchange warns of the market
  budget    used=5000: weight per minute that other programs at the same address use (Binance)
Clock (simulated exchanges):
  clock     by=3h: error of the exchange's clock
Sources of USD/KRW, in the place of EXCHANGE (dunamu, naver, yahoo, frankfurter):
  rate      form=html and others, see `coinspace/simulator/rates.py`: what the source answers

Every kind: after=5 (seconds from now), for=10, p=0.1 (probability), every=20 (each 20th frame),
count=3 (at most 3 times). EXCHANGE may be `*`. Times: 5, 5s, 200ms, 2m, 3h, -3h.
"""

from __future__ import annotations

import math
import random
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from coinspace.errors import ConfigError, MarketError
from coinspace.exchanges import EXCHANGES
from coinspace.exchanges import exchange as exchange_named
from coinspace.market import Market, exchange_as_named
from coinspace.simulator.rates import FORMS, SIMULATED_SOURCES, WHOLE

FRAME_KINDS = {
    "drop",
    "duplicate",
    "reorder",
    "delay",
    "truncate",
    "garbage",
    "flip",
    "digit",
    "huge",
    "split",
    "chop",
    "coalesce",
    "stall",
    "mute",
}
# faults of a connection before its request names the exchange
ACCEPT_KINDS = {
    "accept-close",
    "accept-reset",
    "accept-hang",
    "tls-close",
    "tls-hang",
}
# faults of a WebSocket request -> the bytes of the answer, and what follows
ANSWER_KINDS: dict[str, tuple[bytes, str]] = {
    "request-close": (b"", "close"),
    "request-reset": (b"", "reset"),
    "request-hang": (b"", "hang"),
    "half-header": (b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: webs", "hang"),
    "half-header-close": (b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: webs", "close"),
    "wrong-key": (
        b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        b"Sec-WebSocket-Accept: bm90IHlvdXJzLCBpcyBpdD8h\r\n\r\n",
        "hang",
    ),
}
# faults before a request names the exchange
NAMELESS_KINDS = ACCEPT_KINDS | {"refuse"}
CONNECTION_KINDS = {"halfopen", "reset", "close", "error", "shutdown", "cut", "revoke"}
REQUEST_KINDS = {"rest", "handshake", "stale"}
RATE_KINDS = {"rate"}
# of the answers with facts beside the price
FACT_KINDS = {"facts"}
# facts of one market: its coin's wallet is closed, the exchange warns of it
MARKET_FACTS = {"wallet", "warn"}
MARKET_KINDS = {"halt", "delist"} | MARKET_FACTS
SIMULATED_KINDS = MARKET_KINDS | {"clock", "budget"}
KINDS = (
    FRAME_KINDS
    | NAMELESS_KINDS
    | ANSWER_KINDS.keys()
    | CONNECTION_KINDS
    | REQUEST_KINDS
    | SIMULATED_KINDS
    | RATE_KINDS
    | FACT_KINDS
)
NAMES = (*EXCHANGES, "*")
CHANNELS = ("orderbook", "ticker", "trade")
# longest first: "ms" ends with "s"
UNITS = (("ms", 0.001), ("s", 1.0), ("m", 60.0), ("h", 3600.0))
COMMON = {"after", "for", "p", "every", "count", "channel"}
# keys of a kind whose values are text
TEXTS = {"close": {"reason"}, "rest": {"path"}, "rate": {"form"}, "facts": {"form"}}
# numbers of a kind
DEFAULTS: dict[str, dict[str, float]] = {
    "delay": {"ms": 500, "jitter": 0},
    "huge": {"bytes": 4_000_000},
    "split": {"n": 3},
    "chop": {"n": 3, "ms": 5},
    "coalesce": {"n": 10},
    "close": {"code": 1001},
    "shutdown": {"n": 5},
    "rest": {"status": 429, "retry": 1, "ms": 0},
    "handshake": {"status": 429, "ms": 0},
    "clock": {"by": 3600},
    "budget": {"used": 5000},
}
# the size of a level: in objects, as the last key of an object, in pairs and in changes of a side
_SIZE = re.compile(
    rb'(?:"(?:ask_size|bid_size|as|bs)":|"(?:qty|q)":"(?=[0-9.]+"\})'
    rb'|\[(?:"(?:buy|sell)",)?"[0-9.]+",")([0-9.]+)(?=[",}eE])'
)


@dataclass
class Fault:
    """One fault. values: keys of its kind. seen: occasions. hits: how often it took effect."""

    spec: str
    kind: str
    exchange: str
    symbol: str = ""
    channel: str = ""
    after_s: float = 0.0
    for_s: float = math.inf
    p: float = 1.0
    every: float = 1.0
    count: float = math.inf
    values: dict[str, float] = field(default_factory=dict)
    path: str = ""
    reason: str = ""
    form: str = ""
    id: int = 0
    begin_s: float = 0.0
    hits: int = 0
    seen: int = 0

    def matches(self, exchange: str, symbol: str = "", kind: str = "", path: str = "") -> bool:
        """Return whether it affects frames or requests of a symbol."""
        if self.exchange not in ("*", exchange) or self.path not in path:
            return False
        if self.symbol and symbol.upper() != self.symbol:
            return False
        return not self.channel or channel_of(kind) == self.channel

    def is_on(self, now_s: float) -> bool:
        """Return whether its time is now and its count is not reached."""
        begin_s = self.begin_s + self.after_s
        return begin_s <= now_s < begin_s + self.for_s and self.hits < self.count

    def takes_effect(self, draw: Callable[[], float]) -> bool:
        """Count one occasion; return whether it takes effect."""
        self.seen += 1
        if self.every > 1 and self.seen % int(self.every):
            return False
        if self.p < 1.0 and draw() >= self.p:
            return False
        self.hits += 1
        return True

    def facts(self) -> dict[str, Any]:
        return {"id": self.id, "fault": self.spec, "hits": self.hits, "seen": self.seen}


def channel_of(kind: str) -> str:
    """Return the channel of a frame's kind (`depth@100ms` is a book)."""
    if kind in ("trade", "aggTrade"):
        return "trade"
    return "ticker" if kind in ("ticker", "miniTicker") else "orderbook"


def seconds(text: str) -> float:
    """Read a time such as 5, 5s, 200ms, 2m or -3h, in seconds."""
    for unit, factor in UNITS:
        if text.endswith(unit):
            return float(text.removesuffix(unit)) * factor
    return float(text)


def _symbol(spec: str, exchange: str, text: str) -> str:
    if "/" not in text or exchange not in EXCHANGES:
        return text
    try:
        return exchange_named(exchange).symbol_of(Market.parse(text))
    except MarketError as error:
        raise _wrong(spec, f"a symbol or BASE/QUOTE; {error}") from None


def parse(spec: str) -> Fault:
    """Read a fault.

    Raises: ConfigError naming what was expected.
    """
    kind, *rest = spec.split(":")
    if kind not in KINDS:
        raise _wrong(spec, f"a kind out of {', '.join(sorted(KINDS))}, was {kind!r}")
    if rest:
        rest[0] = exchange_as_named(rest[0])
    names = (*SIMULATED_SOURCES, "*") if kind in RATE_KINDS else NAMES
    if not rest or rest[0] not in names:
        raise _wrong(spec, f"an exchange out of {', '.join(names)} after the kind")
    fault = Fault(spec, kind, rest[0], values=dict(DEFAULTS.get(kind, {})))
    allowed = COMMON | fault.values.keys() | TEXTS.get(kind, set())
    for n, part in enumerate(rest[1:]):
        key, equals, value = part.partition("=")
        if not equals:
            if n:
                raise _wrong(spec, f"key=value, was {part!r}")
            fault.symbol = _symbol(spec, rest[0], part.upper())
            continue
        if key not in allowed:
            raise _wrong(spec, f"a key out of {', '.join(sorted(allowed))}, was {key!r}")
        try:
            _set(fault, key, value)
        except ValueError:
            forms = WHOLE if kind in FACT_KINDS else FORMS
            wanted = f"one of {', '.join(sorted(forms))}" if key == "form" else "a number or time"
            raise _wrong(spec, f"{wanted} for {key}, was {value!r}") from None
    if kind in MARKET_KINDS and not fault.symbol:
        raise _wrong(spec, "a symbol after the exchange")
    forms = WHOLE if kind in FACT_KINDS else FORMS
    if kind in RATE_KINDS | FACT_KINDS and fault.form not in forms:
        raise _wrong(spec, f"form=, one of {', '.join(sorted(forms))}")
    if kind == "refuse" and fault.for_s == math.inf:
        raise _wrong(spec, "for=SECONDS, after which the port is open again")
    return fault


def _set(fault: Fault, key: str, value: str) -> None:
    match key:
        case "after" | "for":
            setattr(fault, f"{key}_s", seconds(value))
        case "p":
            fault.p = float(value)
        case "every":
            fault.every = seconds(value)
        case "count":
            fault.count = int(value)
        case "channel" if value not in CHANNELS:
            raise ValueError
        case "form" if value not in FORMS:
            raise ValueError
        case "channel" | "path" | "reason" | "form":
            setattr(fault, key, value)
        case "by":
            fault.values["by"] = seconds(value)
        case _:
            fault.values[key] = float(value)


def _wrong(spec: str, expected: str) -> ConfigError:
    return ConfigError(f"fault {spec!r}: expected {expected}")


def altered(fault: Fault, payload: bytes) -> bytes:
    """Return the payload altered by a frame fault; the result depends only on fault and hits."""
    draw = random.Random(f"{fault.spec}/{fault.hits}")
    match fault.kind:
        case "truncate":
            return payload[: max(1, int(len(payload) * (0.1 + 0.8 * draw.random())))]
        case "garbage":
            return draw.randbytes(len(payload))
        case "flip":
            at = int(draw.random() * len(payload))
            return (
                payload[:at]
                + bytes((payload[at] ^ 1 << int(draw.random() * 7),))
                + (payload[at + 1 :])
            )
        case "digit":
            # size 0 stays 0: a removed level that comes back could cross the book
            sizes = [one.span(1) for one in _SIZE.finditer(payload) if float(one[1])]
            if not sizes:
                return payload
            start, end = sizes[int(draw.random() * len(sizes))]
            # not the first digit, so that no leading zero appears
            places = [at for at in range(start + 1, end) if payload[at : at + 1].isdigit()]
            if not places:
                return payload
            at = places[int(draw.random() * len(places))]
            digit = b"%d" % ((payload[at] - ord("0") + 1 + int(draw.random() * 9)) % 10)
            return payload[:at] + digit + payload[at + 1 :]
        case "huge":
            padding = b"x" * int(fault.values["bytes"])
            head = payload[:1] if payload[:1] == b"{" else b""
            return b'%b"padding":"%b",%b' % (head, padding, payload[1:]) if head else payload
    return payload
