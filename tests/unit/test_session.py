"""Subscriptions under each exchange's rules."""

from typing import Any

import orjson
import pytest

from coinspace.simulator.session import BinanceSession, BithumbSession, KoreanSession, parse_stream


class Client:
    """A client that keeps the frames of its session."""

    def __init__(self, kind: Any, *args: Any, **options: Any) -> None:
        self.answers: list[Any] = []
        self.ended: list[tuple[int, str, float]] = []
        self.session = kind(self._send, lambda *end: self.ended.append(end), *args, **options)

    def _send(self, payload: bytes) -> None:
        self.answers.append(orjson.loads(payload))

    def say(self, message: Any, now_s: float = 0.0) -> "Client":
        text = message if isinstance(message, bytes) else orjson.dumps(message)
        self.session.on_text(text, now_s)
        return self


def upbit(*parts: Any) -> Client:
    return Client(KoreanSession).say([{"ticket": "t"}, *parts])


def binance(**options: Any) -> Client:
    return Client(BinanceSession, [], combined=True, **options)


BOOK = {"type": "orderbook", "codes": ["KRW-BTC"]}


@pytest.mark.parametrize("kind", [KoreanSession, BithumbSession])
@pytest.mark.parametrize(
    ("message", "name"),
    [
        (b"nonsense", "WRONG_FORMAT"),
        ({"ticket": "t"}, "WRONG_FORMAT"),
        ([BOOK], "NO_TICKET"),
        ([{"ticket": "t"}, {"type": "nope", "codes": ["KRW-BTC"]}], "INVALID_PARAM"),
        ([{"ticket": "t"}, {"type": "trade"}], "NO_CODES"),
        ([{"ticket": "t"}, {"type": "trade", "codes": []}], "INVALID_PARAM"),
    ],
)
def test_errors_close_with_1000(kind: Any, message: Any, name: str) -> None:
    client = Client(kind).say(message)
    assert client.answers[0]["error"]["name"] == name
    assert client.ended == [(1000, "", 0.15)]
    client.say([{"ticket": "t"}, BOOK])
    assert len(client.answers) == 1


def test_a_missing_type_is_named_differently() -> None:
    for kind, name in ((KoreanSession, "NO_TYPE"), (BithumbSession, "WRONG_FORMAT")):
        client = Client(kind).say([{"ticket": "t"}, {"codes": ["KRW-BTC"]}])
        assert client.answers[0]["error"]["name"] == name


def test_a_new_subscription_replaces_the_old_one() -> None:
    client = upbit(BOOK, {"type": "trade", "codes": ["KRW-ETH"]})
    assert client.session.wants("orderbook", "KRW-BTC")
    client.say([{"ticket": "u"}, {"type": "ticker", "codes": ["KRW-XRP"]}])
    assert client.session.wants("ticker", "KRW-XRP")
    assert not client.session.wants("orderbook", "KRW-BTC")
    assert not client.session.wants("trade", "KRW-ETH")


def test_units_formats_and_flags() -> None:
    codes = ["KRW-A.5", "KRW-B.20", "KRW-C", "KRW-D.1"]
    [channel] = upbit({"type": "orderbook", "codes": codes}).session.channels
    assert channel.units == {"KRW-A": 5, "KRW-B": 30, "KRW-C": 30, "KRW-D": 1}
    client = Client(BithumbSession).say(
        [{"ticket": "t"}, {"type": "orderbook", "codes": ["KRW-A.5", "KRW-B.30"]}]
    )
    assert client.session.channels[0].units == {"KRW-A": 5, "KRW-B": 15}
    for flag, kind, heard in (
        ("is_only_realtime", KoreanSession, True),
        ("isOnlyRealtime", KoreanSession, True),
        ("isOnlyRealtime", BithumbSession, True),
        ("is_only_realtime", BithumbSession, False),
    ):
        client = Client(kind).say([{"ticket": "t"}, {**BOOK, flag: True}, {"format": "SIMPLE"}])
        assert client.session.channels[0].snapshot is not heard
        assert client.session.is_simple
    assert upbit(BOOK, {"format": "JSON_LIST"}).session.is_listed
    listed = Client(BithumbSession).say([{"ticket": "t"}, BOOK, {"format": "JSON_LIST"}])
    assert not listed.session.is_listed


def test_an_unsupported_level_is_silent_at_upbit_and_an_error_at_bithumb() -> None:
    for kind in (KoreanSession, BithumbSession):
        client = Client(kind)
        client.session.levels_of = lambda code: (0, 1, 1000)
        client.say([{"ticket": "t"}, {**BOOK, "level": 7}])
        if kind is KoreanSession:
            assert client.session.channels[0].silent
            assert not client.answers
        else:
            assert client.answers[0]["error"]["name"] == "WRONG_FORMAT"


def test_text_ping_starts_a_status_every_ten_seconds() -> None:
    client = Client(KoreanSession).say(b"PING", 100.0)
    assert client.answers == [{"status": "UP"}]
    for now_s, n in ((105.0, 1), (110.0, 2), (111.0, 2), (120.0, 3)):
        client.session.on_second(now_s)
        assert len(client.answers) == n


def test_too_many_messages() -> None:
    client = Client(KoreanSession)
    for _ in range(6):
        client.say(b"PING", 1.0)
    assert client.answers[-1]["error"]["name"] == "TOO_MANY_REQUESTS"
    client = binance()
    for number in range(6):
        client.say({"method": "UNSUBSCRIBE", "id": number}, 1.0)
    assert client.ended == [(1008, "Too many requests", 0.0)]
    client = binance(limits=False)
    for number in range(20):
        client.say({"method": "UNSUBSCRIBE", "id": number}, 1.0)
    assert not client.ended


def test_binance_control() -> None:
    client = binance()
    streams = ["btcusdt@trade", "BTCUSDT@trade", "nonsense"]
    client.say({"method": "SUBSCRIBE", "params": streams, "id": 1}, 0)
    client.say({"method": "UNSUBSCRIBE", "params": ["nonsense"], "id": None}, 2)
    assert client.answers == [
        {"result": None, "id": 1},
        {"result": None, "id": None},
    ]
    assert client.session.wants("trade", "btcusdt")
    client.say({"method": "FOO", "id": 20}, 6)
    assert client.answers[-1]["error"]["code"] == 2
    client.say(b"garbage", 8)
    assert client.ended == [(1008, "Invalid request", 0.0)]


@pytest.mark.parametrize(
    ("stream", "parsed"),
    [
        ("btcusdt@depth@100ms", ("BTCUSDT", "depth@100ms")),
        ("btcusdt@trade", ("BTCUSDT", "trade")),
        ("btcusdt@depth30", None),
        ("btcusdt@depth@50ms", None),
        ("BTCUSDT@depth", None),
        ("!ticker@arr", None),
        ("btcusdt", None),
    ],
)
def test_unknown_streams_never_deliver(stream: str, parsed: tuple[str, str] | None) -> None:
    assert parse_stream(stream) == parsed
