"""One WebSocket connection's subscription, by each exchange's rules; no socket, no event loop.

A session reads the client's frames, answers through `send` and `end`, and selects the frames that
the client gets.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Self, cast

import orjson

from coinspace.exchanges import binance_sbe as sbe
from coinspace.exchanges import exchange as exchange_named
from coinspace.exchanges.binance import unwrapped, wrapped
from coinspace.exchanges.coinone import CHANNELS, subscribe_frame
from coinspace.exchanges.exchange import Label
from coinspace.exchanges.korean import BOOK, grouped_kind
from coinspace.simulator.markets import binance, coinbase, coinone, korean
from coinspace.simulator.markets.market import Event, SimulatedMarket
from coinspace.window import Used

ERROR_CLOSE_S = 0.15
STATUS_S = 10.0
# streams of a simulated market of Binance: those that CoinSpace subscribes to
STREAMS = ("depth@100ms", "bookTicker", "trade", "ticker")
# the key that simulated exchanges know
SIMULATED_KEY = "simulated-key"
# a client's messages in one second
MOST_MESSAGES = 5
TYPES = ("ticker", "trade", "orderbook")
# Coinbase: seconds without a subscription, channels without a key, and their kinds of events
UNSUBSCRIBED_S = 5.0
PUBLIC = ("level2_batch", "matches", "ticker", "heartbeat")
KINDS = {"matches": "trade"}
SESSION_ID = "6f3e1d0f-f9ab-f300-1567-0eb31af6d6ef"
Send = Callable[[bytes], None]
End = Callable[[int, str, float], None]


class Refused(Exception):
    """A request that the exchange answers with an error and then a close."""

    def __init__(self, name: str, message: str) -> None:
        super().__init__(name)
        self.name = name
        self.message = message


WRONG_FORMAT = ("WRONG_FORMAT", "Format 이 맞지 않습니다.")


class Session:
    """Base: one connection's subscription.

    Attributes: changed(): called after each change of the subscription. ended: the session has
    requested a close and ignores further frames.
    """

    # path below the exchange's address
    path = ""
    # limit of connections, and its window in seconds
    attempts: tuple[int, float] = (5, 1.0)
    # seconds between requests with an Origin header, 0 = no limit
    origin_s = 0.0
    # headers of the handshake
    headers: ClassVar[Mapping[str, str]] = {}
    # sent before the session ends because of a client's error
    error_frame = b""
    # whether a ping of the protocol is answered
    pongs = True
    # whether the data frames are binary beside control frames of text
    is_binary = False
    # whether the session was opened with a key
    has_key = False

    @classmethod
    def refusal(
        cls, path: str, headers: Mapping[str, str], keys: Collection[str]
    ) -> tuple[int, bytes] | None:
        """Return status and body of the answer to a handshake without a valid key; None = go on."""
        return None

    @classmethod
    def opened(
        cls, path: str, query: Mapping[str, str], send: Send, end: End, *, limits: bool
    ) -> Self | None:
        """Return the session of a URL, None for an unknown path."""
        return cls(send, end, limits=limits) if path == cls.path else None

    @classmethod
    def recorded(
        cls, symbols: Sequence[str], ticket: str, send: Send, end: End
    ) -> tuple[Self, str, list[bytes]]:
        """Return a session of all channels, its URL's extra part, and its subscribing frames."""
        raise NotImplementedError

    def __init__(self, send: Send, end: End, *, limits: bool = True) -> None:
        self.send = send
        self._end = end
        self.limits = limits
        self.ended = False
        self.changed: Callable[[Any], None] = lambda added: None

    def end(self, code: int, reason: str = "", delay_s: float = 0.0) -> None:
        """Close with a code after a delay."""
        if not self.ended:
            self.ended = True
            self._end(code, reason, delay_s)

    def greet(self) -> None:
        """Send what comes before any frame of the client."""

    def is_idle(self, open_s: float, silent_s: float, idle_s: float) -> bool:
        """Return whether the exchange gives up a connection without traffic.

        Args: open_s: since it was opened. silent_s: since the last frame of either side.
        """
        return silent_s > idle_s

    def on_text(self, text: bytes, now_s: float) -> None:
        """Take a text or binary frame of the client."""
        raise NotImplementedError

    def on_control(self, now_s: float) -> None:
        """Take a ping or pong frame of the client."""

    def on_second(self, now_s: float) -> None:
        """Do periodic work, about once a second."""

    def frames(self, event: Event) -> list[bytes]:
        """Return the frames of a simulated event that this session wants."""
        raise NotImplementedError

    def attach(self, markets: Mapping[str, SimulatedMarket]) -> None:
        """Take the markets that the session delivers."""

    def first_frames(
        self, added: Any, markets: Mapping[str, SimulatedMarket]
    ) -> Iterator[tuple[bytes, str, str]]:
        """Yield the first frames of a new subscription: (frame, kind, symbol).

        Args: added: the argument of `changed`, None = the whole subscription.
        """
        yield from ()

    def spelled(self, kind: str, what: Label, payload: bytes) -> bytes:
        """Return a recorded frame in this session's format."""
        return payload

    def shutdown_frame(self, now_ms: int) -> bytes | None:
        """Return the event that announces the end of this connection, None = no such event."""
        return None

    def wants(self, kind: str, symbol: str) -> bool:
        """Return whether a recorded frame is part of the subscription."""
        return (kind, symbol) in self.subscription

    @property
    def subscription(self) -> frozenset[tuple[str, str]]:
        """The subscribed (kind, symbol) pairs."""
        raise NotImplementedError


@dataclass
class Channel:
    """One type of a Korean subscription."""

    type: str
    codes: list[str]
    units: dict[str, int] = field(default_factory=dict)
    level: float = 0
    silent: bool = False
    snapshot: bool = True
    realtime: bool = True
    # code -> the format of its frames, once a frame was sent
    variants: dict[str, korean.Variant] = field(default_factory=dict)


class KoreanSession(Session):
    """A session of Upbit; the base of Bithumb's."""

    path = "/websocket/v1"
    origin_s = 10.0
    headers: ClassVar[Mapping[str, str]] = {
        "remaining-req": "group=websocket; min=300; sec=4",
        "limit-by-ip": "Yes",
    }
    error_frame = orjson.dumps({"error": {"message": WRONG_FORMAT[1], "name": WRONG_FORMAT[0]}})
    unit_choices: tuple[int, ...] = (1, 5, 15, 30)
    most_units = 30
    formats: tuple[str, ...] = ("DEFAULT", "SIMPLE", "JSON_LIST", "SIMPLE_LIST")
    flags: tuple[tuple[str, ...], tuple[str, ...]] = (
        ("is_only_snapshot", "isOnlySnapshot"),
        ("is_only_realtime", "isOnlyRealtime"),
    )
    default_level = 0
    no_type = ("NO_TYPE", "type 필드가 존재하지 않습니다.")
    message_limits: tuple[tuple[float, int], ...] = ((1.0, 5), (60.0, 100))

    @classmethod
    def recorded(
        cls, symbols: Sequence[str], ticket: str, send: Send, end: End
    ) -> tuple[Self, str, list[bytes]]:
        request = orjson.dumps(
            [
                {"ticket": ticket},
                *({"type": type_, "codes": symbols} for type_ in ("orderbook", "ticker", "trade")),
                {"format": "DEFAULT"},
            ]
        )
        return cls(send, end), "", [request]

    def __init__(self, send: Send, end: End, *, limits: bool = True) -> None:
        super().__init__(send, end, limits=limits)
        self.format = "DEFAULT"
        self.channels: list[Channel] = []
        self._used = [(Used(seconds), most) for seconds, most in self.message_limits]
        self._status_s: float | None = None
        # code -> supported grouping levels of its book; None = all
        self.levels_of: Callable[[str], tuple[float, ...] | None] = lambda code: None

    @property
    def is_simple(self) -> bool:
        """Whether frames have short keys."""
        return self.format.startswith("SIMPLE")

    @property
    def is_listed(self) -> bool:
        """Whether frames are arrays."""
        return self.format.endswith("LIST")

    def _error(self, name: str, message: str) -> None:
        # an error frame is sent, then the connection is closed with 1000 after about 150 ms
        self.send(orjson.dumps({"error": {"name": name, "message": message}}))
        self.end(1000, "", ERROR_CLOSE_S)

    def on_text(self, text: bytes, now_s: float) -> None:
        if self.ended:
            return
        used = [one.add(now_s) > most for one, most in self._used]
        if self.limits and any(used):
            self._error("TOO_MANY_REQUESTS", "Too Many Requests")
        elif text.strip() == b"PING":
            # after a text PING a status frame comes every 10 s, until the connection ends
            self._status_s = now_s
            self.send(b'{"status":"UP"}')
        else:
            self._on_request(text)

    def on_second(self, now_s: float) -> None:
        if self._status_s is not None and now_s - self._status_s >= STATUS_S and not self.ended:
            self._status_s = now_s
            self.send(b'{"status":"UP"}')

    def _on_request(self, text: bytes) -> None:
        try:
            parts = orjson.loads(text)
        except orjson.JSONDecodeError:
            parts = None
        try:
            self._request(parts)
        except Refused as refused:
            self._error(refused.name, refused.message)

    def _request(self, parts: Any) -> None:
        if not isinstance(parts, list) or not all(isinstance(part, dict) for part in parts):
            raise Refused(*WRONG_FORMAT)
        ticket = next((part["ticket"] for part in parts if "ticket" in part), None)
        if not isinstance(ticket, str) or not ticket:
            raise Refused("NO_TICKET", "티켓이 존재하지 않거나, 유효하지 않습니다.")
        wanted = next((part["format"] for part in parts if "format" in part), None)
        self.format = wanted if wanted in self.formats else "DEFAULT"
        asked = [part for part in parts if not {"ticket", "format"} & set(part)]
        if not any("type" in part for part in asked):
            raise Refused(*self.no_type)
        # a request replaces the one before, with all its types and codes
        self.channels = [self._channel(part) for part in asked]
        self.changed(self.channels)

    def _channel(self, part: dict[str, Any]) -> Channel:
        kind, codes = part.get("type"), part.get("codes")
        if kind is None:
            raise Refused(*self.no_type)
        if kind not in TYPES and not str(kind).startswith("candle."):
            raise Refused("INVALID_PARAM", f"{kind} 은 지원하지 않는 타입입니다.")
        if not isinstance(codes, list):
            raise Refused("NO_CODES", "codes 필드가 존재하지 않습니다.")
        if not codes:
            raise Refused("INVALID_PARAM", "codes 필드가 비어 있습니다.")
        only_snapshot = any(part.get(flag) is True for flag in self.flags[0])
        only_realtime = any(part.get(flag) is True for flag in self.flags[1])
        channel = Channel(kind, [], snapshot=not only_realtime, realtime=not only_snapshot)
        for code in codes:
            name, dot, suffix = str(code).partition(".")
            channel.codes.append(name)
            channel.units[name] = self._n_units(suffix) if dot else self.most_units
        level = part.get("level", self.default_level)
        channel.level = float(level) if isinstance(level, (int, float)) else self.default_level
        self._check_level(channel)
        return channel

    def _n_units(self, suffix: str) -> int:
        n = int(suffix) if suffix.isdigit() else 0
        return n if n in self.unit_choices else self.most_units

    def _check_level(self, channel: Channel) -> None:
        for code in channel.codes:
            levels = self.levels_of(code)
            if levels is not None and channel.level not in levels:
                self._refuse_level(channel)

    def _refuse_level(self, channel: Channel) -> None:
        # a level that one market does not support: no frames for all codes, and no error
        channel.silent = True

    def variant(self, channel: Channel, code: str, stream_type: str) -> korean.Variant:
        """Return the format of a code's frames."""
        return korean.Variant(
            self.is_simple,
            self.is_listed,
            channel.units.get(code, self.most_units),
            channel.level,
            stream_type,
        )

    def attach(self, markets: Mapping[str, SimulatedMarket]) -> None:
        def levels_of(code: str) -> tuple[float, ...] | None:
            market = cast("korean.KoreanMarket | None", markets.get(code))
            return market.levels_supported() if market else None

        self.levels_of = levels_of

    def first_frames(
        self, added: Sequence[Channel] | None, markets: Mapping[str, SimulatedMarket]
    ) -> Iterator[tuple[bytes, str, str]]:
        for channel in self.channels if added is None else added:
            if channel.silent or not channel.snapshot or channel.type.startswith("candle"):
                continue
            for code in channel.codes:
                market = cast("korean.KoreanMarket | None", markets.get(code))
                event = market.snapshot(channel.type) if market else None
                if event is not None:
                    variant = self.variant(channel, code, self.first_type(code))
                    yield event.frame(variant), channel.type, code

    def first_type(self, code: str) -> str:
        """Return the stream type of a code's first frame."""
        return "SNAPSHOT"

    def frames(self, event: Event) -> list[bytes]:
        symbol = event.market.symbol
        return [
            event.frame(self._live_variant(channel, symbol))
            for channel in self.channels
            if channel.type == event.kind
            and channel.realtime
            and not channel.silent
            and symbol in channel.units
        ]

    def _live_variant(self, channel: Channel, symbol: str) -> korean.Variant:
        found = channel.variants.get(symbol)
        if found is None:
            found = channel.variants[symbol] = self.variant(channel, symbol, "REALTIME")
        return found

    @property
    def subscription(self) -> frozenset[tuple[str, str]]:
        return frozenset(
            (self._kind(channel), code) for channel in self.channels for code in channel.codes
        )

    def _kind(self, channel: Channel) -> str:
        # of recorded frames: price groups have a kind of their own
        grouped = channel.type == BOOK and channel.level > self.default_level
        return grouped_kind(channel.level) if grouped else channel.type


class BithumbSession(KoreanSession):
    """A session of Bithumb: camelCase flags, at most 15 units, level 1 by default."""

    attempts = (10, 1.0)
    origin_s = 0.0
    headers: ClassVar[Mapping[str, str]] = {}
    unit_choices = tuple(range(1, 16))
    most_units = 15
    formats = ("DEFAULT", "SIMPLE")
    flags = (("isOnlySnapshot",), ("isOnlyRealtime",))
    default_level = 1
    no_type = WRONG_FORMAT

    def _refuse_level(self, channel: Channel) -> None:
        raise Refused(*WRONG_FORMAT)

    def first_type(self, code: str) -> str:
        # observed at Bithumb: with SIMPLE a REALTIME frame may come first
        return "REALTIME" if self.is_simple and code[-1] == "P" else "SNAPSHOT"


def parse_stream(stream: str) -> tuple[str, str] | None:
    """Return (symbol, kind of event) of a stream name, None for an unknown stream."""
    symbol, at, name = stream.partition("@")
    if not at or symbol != symbol.lower():
        return None
    return (symbol.upper(), name) if name in STREAMS else None


class BinanceSession(Session):
    """A session of Binance.

    Args: streams: from the URL. combined: whether frames have their stream's name. micro: whether
    times are in µs.
    """

    attempts = (300, 300.0)
    error_frame = orjson.dumps({"error": {"code": 0, "msg": "Unknown property"}, "id": None})

    @classmethod
    def opened(
        cls, path: str, query: Mapping[str, str], send: Send, end: End, *, limits: bool
    ) -> Self | None:
        if path.startswith(sbe.PATH + "/"):
            return cls._sbe(path.removeprefix(sbe.PATH), query, send, end, limits=limits)
        if path == "/stream":
            streams, combined = query.get("streams", ""), True
        elif path == "/ws" or path.startswith("/ws/"):
            streams, combined = path[4:], False
        else:
            return None
        named = [name for name in streams.split("/") if name]
        micro = query.get("timeUnit", "").upper() == "MICROSECOND"
        return cls(send, end, named, combined=combined, micro=micro, limits=limits)

    @classmethod
    def refusal(
        cls, path: str, headers: Mapping[str, str], keys: Collection[str]
    ) -> tuple[int, bytes] | None:
        if not path.startswith(sbe.PATH + "/") or headers.get(sbe.HEADER) in keys:
            return None
        text = "Invalid API-key, IP, or permissions for action."
        return 401, orjson.dumps({"code": -2015, "msg": text})

    @classmethod
    def _sbe(
        cls, path: str, query: Mapping[str, str], send: Send, end: End, *, limits: bool
    ) -> Self | None:
        opened = BinanceSbeSession.opened(path, query, send, end, limits=limits)
        return cast("Self | None", opened)

    @classmethod
    def recorded(
        cls, symbols: Sequence[str], ticket: str, send: Send, end: End
    ) -> tuple[Self, str, list[bytes]]:
        streams = [f"{symbol.lower()}@{channel}" for symbol in symbols for channel in STREAMS]
        added = f"/stream?streams={'/'.join(streams)}"
        return cls(send, end, streams, combined=True), added, []

    def __init__(
        self,
        send: Send,
        end: End,
        streams: list[str],
        *,
        combined: bool,
        micro: bool = False,
        limits: bool = True,
    ) -> None:
        super().__init__(send, end, limits=limits)
        self.combined = combined
        self.micro = micro
        self.streams: dict[str, None] = {}
        # (symbol, kind) -> the format of its frames
        self._variants: dict[tuple[str, str] | None, binance.Variant] = {}
        self._add(streams)
        self._used: Used[float] = Used(1.0)

    def _over(self, now_s: float) -> bool:
        if self.limits and self._used.add(now_s) > MOST_MESSAGES:
            # more than 5 messages in a second, control frames included, end the connection
            self.end(1008, "Too many requests")
        return self.ended

    def on_control(self, now_s: float) -> None:
        self._over(now_s)

    def on_text(self, text: bytes, now_s: float) -> None:
        if self.ended or self._over(now_s):
            return
        try:
            request = orjson.loads(text)
        except orjson.JSONDecodeError:
            request = None
        if not isinstance(request, dict):
            self.end(1008, "Invalid request")
            return
        number = request.get("id")
        params = request.get("params", [])
        if not isinstance(params, list):
            return self._error(2, "Invalid request: params must be an array", number)
        match request.get("method"):
            case "SUBSCRIBE" | "UNSUBSCRIBE" as method:
                if not all(isinstance(one, str) for one in params):
                    text_ = "Invalid request: property name must be a string"
                    return self._error(2, text_, number)
                # every stream is acknowledged, also one that does not exist and stays silent
                self._answer(None, number)
                if method == "SUBSCRIBE":
                    added = [stream for stream in params if stream not in self.streams]
                    self._add(added)
                    self.changed(added)
                else:
                    for stream in params:
                        self._remove(stream)
                    self.changed([])
            case method:
                self._error(2, f"Invalid request: unknown variant `{method}`", number)
        return None

    def _answer(self, result: Any, number: Any) -> None:
        self.send(orjson.dumps({"result": result, "id": number}))

    def _error(self, code: int, message: str, number: Any) -> None:
        self.send(orjson.dumps({"error": {"code": code, "msg": message}, "id": number}))

    def spelled(self, kind: str, what: Label, payload: bytes) -> bytes:
        if self.combined == what.wrapped:
            return payload
        if what.wrapped:
            return unwrapped(payload)
        return wrapped(f"{what.symbol}@{kind}", payload)

    def shutdown_frame(self, now_ms: int) -> bytes:
        event = {"e": "serverShutdown", "E": now_ms}
        wrapped: dict[str, Any] = {"stream": "!serverShutdown", "data": event}
        return orjson.dumps(wrapped if self.combined else event)

    def _add(self, streams: Iterable[str]) -> None:
        for stream in streams:
            self.streams[stream] = None
            if (parsed := parse_stream(stream)) is not None:
                self._variants[parsed] = binance.Variant(stream, self.combined, self.micro)

    def _remove(self, stream: str) -> None:
        self.streams.pop(stream, None)
        self._variants = {key: one for key, one in self._variants.items() if one.stream != stream}

    def frames(self, event: Event) -> list[bytes]:
        variant = self._variants.get((event.market.symbol, event.kind))
        return [] if variant is None else [event.frame(variant)]

    @property
    def subscription(self) -> frozenset[tuple[str, str]]:
        parts = (stream.partition("@") for stream in self.streams)
        return frozenset((kind, symbol) for symbol, _, kind in parts)


class CoinoneSession(Session):
    """A session of Coinone: a topic per request, acknowledged even when it does not exist."""

    path = "/"
    attempts = (20, 1.0)
    error_frame = b'{"response_type":"ERROR","error_code":160010,"message":"Invalid Request"}'
    # whether a ping of the protocol is answered is not known; the text PING is
    pongs = False

    @classmethod
    def recorded(
        cls, symbols: Sequence[str], ticket: str, send: Send, end: End
    ) -> tuple[Self, str, list[bytes]]:
        frames = [
            subscribe_frame(channel, symbol, "DEFAULT")
            for channel in CHANNELS.values()
            for symbol in symbols
        ]
        return cls(send, end), "", frames

    def __init__(self, send: Send, end: End, *, limits: bool = True) -> None:
        super().__init__(send, end, limits=limits)
        # (kind, symbol) -> whether its frames have short keys
        self.topics: dict[tuple[str, str], bool] = {}
        self._asked = False
        # symbols of the markets, None = any
        self._listed: Collection[str] | None = None

    def greet(self) -> None:
        self.send(orjson.dumps({"response_type": "CONNECTED", "data": {"session_id": SESSION_ID}}))

    def is_idle(self, open_s: float, silent_s: float, idle_s: float) -> bool:
        # a client that has sent anything stays for 30 minutes without a PING
        return open_s > idle_s and not self._asked

    def attach(self, markets: Mapping[str, SimulatedMarket]) -> None:
        self._listed = markets.keys()

    def on_text(self, text: bytes, now_s: float) -> None:
        if self.ended:
            return
        self._asked = True
        try:
            request = orjson.loads(text)
            kind = request["request_type"]
        except (orjson.JSONDecodeError, LookupError, TypeError):
            self.send(self.error_frame)
            return
        if kind == "PING":
            self._answer("PONG")
        elif kind not in ("SUBSCRIBE", "UNSUBSCRIBE"):
            self._invalid("request_type")
        elif request.get("channel") not in CHANNELS.values():
            self._invalid("channel")
        elif request.get("format", "DEFAULT") not in ("DEFAULT", "SHORT"):
            self._invalid("format")
        else:
            self._topic(request)

    def _topic(self, request: dict[str, Any]) -> None:
        topic = request.get("topic")
        names = topic if isinstance(topic, dict) else {}
        quote, base = (
            str(names.get(key, "")).upper() for key in ("quote_currency", "target_currency")
        )
        # the topic comes back as it was written, and an unknown one is acknowledged too
        self._answer(f"{request['request_type']}D", channel=request["channel"], data=topic)
        if quote != "KRW" or (self._listed is not None and base not in self._listed):
            self._answer("ERROR", error_code=160012, message="Invalid Topic")
            return
        key = (request["channel"].lower(), base)
        if request["request_type"] == "UNSUBSCRIBE":
            self.topics.pop(key, None)
            self.changed([])
            return
        self.topics[key] = request.get("format") == "SHORT"
        self.changed([key])

    def _answer(self, kind: str, **fields: Any) -> None:
        self.send(orjson.dumps({"response_type": kind, **fields}))

    def _invalid(self, field: str) -> None:
        self._answer("ERROR", error_code=160011, message="Invalid Type", field=field)

    def first_frames(
        self, added: Any, markets: Mapping[str, SimulatedMarket]
    ) -> Iterator[tuple[bytes, str, str]]:
        for kind, symbol in self.topics if added is None else added:
            market = markets.get(symbol)
            event = market.snapshot(kind) if market and kind == "orderbook" else None
            if event is not None:
                short = self.topics[kind, symbol]
                yield event.frame(coinone.Variant(short, is_first=True)), kind, symbol

    def frames(self, event: Event) -> list[bytes]:
        short = self.topics.get((event.kind, event.market.symbol))
        return [] if short is None else [event.frame(coinone.Variant(short))]

    @property
    def subscription(self) -> frozenset[tuple[str, str]]:
        return frozenset(self.topics)


class CoinbaseSession(Session):
    """A session of Coinbase: channels of markets are added and removed, snapshots come first."""

    path = "/"
    attempts = (20, 1.0)
    error_frame = b'{"type":"error","message":"Malformed JSON"}'

    @classmethod
    def recorded(
        cls, symbols: Sequence[str], ticket: str, send: Send, end: End
    ) -> tuple[Self, str, list[bytes]]:
        frame = {"type": "subscribe", "product_ids": list(symbols), "channels": list(PUBLIC)}
        return cls(send, end), "", [orjson.dumps(frame)]

    def __init__(self, send: Send, end: End, *, limits: bool = True) -> None:
        super().__init__(send, end, limits=limits)
        self.topics: dict[tuple[str, str], None] = {}
        self._markets: Mapping[str, SimulatedMarket] | None = None
        self._beat_s = 0.0

    def attach(self, markets: Mapping[str, SimulatedMarket]) -> None:
        self._markets = markets

    def is_idle(self, open_s: float, silent_s: float, idle_s: float) -> bool:
        return open_s > UNSUBSCRIBED_S and not self.topics

    def on_text(self, text: bytes, now_s: float) -> None:
        if self.ended:
            return
        try:
            request = orjson.loads(text)
            kind, products = request["type"], request["product_ids"]
            channels = request["channels"]
        except (orjson.JSONDecodeError, LookupError, TypeError):
            self.send(self.error_frame)
            return
        if kind not in ("subscribe", "unsubscribe"):
            self._refuse(f"Type has to be either subscribe or unsubscribe, was {kind}")
            return
        for channel in channels:
            if channel not in PUBLIC:
                self._refuse(f"{channel} now requires authentication")
                return
        for product in products:
            if self._markets is not None and product not in self._markets:
                self._refuse(f"{product} is not a valid product")
                return
        self._change(kind, [(KINDS.get(one, one), name) for one in channels for name in products])

    def _refuse(self, reason: str) -> None:
        frame = {"type": "error", "message": "Failed to subscribe", "reason": reason}
        self.send(orjson.dumps(frame))

    def _change(self, kind: str, keys: list[tuple[str, str]]) -> None:
        added = [key for key in keys if kind == "subscribe" and key not in self.topics]
        for key in keys:
            self.topics.pop(key, None)
            if kind == "subscribe":
                self.topics[key] = None
        state: dict[str, list[str]] = {}
        for channel, product in self.topics:
            state.setdefault(channel, []).append(product)
        channels = [{"name": name, "product_ids": names} for name, names in state.items()]
        self.send(orjson.dumps({"type": "subscriptions", "channels": channels}))
        self.changed(added)

    def on_second(self, now_s: float) -> None:
        if now_s - self._beat_s < 1.0 or self._markets is None or self.ended:
            return
        self._beat_s = now_s
        for channel, product in self.topics:
            if channel == "heartbeat":
                self.send(cast("coinbase.CoinbaseMarket", self._markets[product]).heartbeat())

    def first_frames(
        self, added: Any, markets: Mapping[str, SimulatedMarket]
    ) -> Iterator[tuple[bytes, str, str]]:
        for kind, symbol in self.topics if added is None else added:
            market = markets.get(symbol)
            event = market.snapshot(kind) if market and kind != "heartbeat" else None
            if event is not None:
                yield event.frame("last_match"), kind, symbol

    def frames(self, event: Event) -> list[bytes]:
        key = (event.kind, event.market.symbol)
        return [event.frame("")] if key in self.topics else []

    @property
    def subscription(self) -> frozenset[tuple[str, str]]:
        return frozenset(self.topics)


class BinanceSbeSession(BinanceSession):
    """A session of the binary streams: data frames are SBE, answers and events are JSON."""

    is_binary = True
    has_key = True
    # stream -> kind of event of a simulated market
    kinds: ClassVar[Mapping[str, str]] = {
        "depth": binance.FAST_DEPTH,
        "bestBidAsk": "bookTicker",
        "trade": "trade",
    }

    def _add(self, streams: Iterable[str]) -> None:
        for stream in streams:
            self.streams[stream] = None
            symbol, at, name = stream.partition("@")
            if at and symbol == symbol.lower() and name in self.kinds:
                self._variants[symbol.upper(), self.kinds[name]] = binance.Variant(
                    stream, combined=False, sbe=True
                )

    def attach(self, markets: Mapping[str, SimulatedMarket]) -> None:
        for market in markets.values():
            cast("binance.BinanceMarket", market).make_fast()

    def shutdown_frame(self, now_ms: int) -> bytes:
        return orjson.dumps({"e": "serverShutdown", "E": now_ms})

    def spelled(self, kind: str, what: Label, payload: bytes) -> bytes:
        return payload

    @property
    def subscription(self) -> frozenset[tuple[str, str]]:
        return frozenset((kind + sbe.KIND, symbol) for kind, symbol in super().subscription)


# PROTOCOL of an exchange's module -> its sessions
SESSIONS: dict[str, type[Session]] = {
    "upbit": KoreanSession,
    "bithumb": BithumbSession,
    "binance": BinanceSession,
    "coinone": CoinoneSession,
    "coinbase": CoinbaseSession,
}


def session_of(exchange: str) -> type[Session]:
    return SESSIONS[exchange_named(exchange).PROTOCOL]
