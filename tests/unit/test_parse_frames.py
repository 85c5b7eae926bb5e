"""Real frames of the three exchanges: every one decodes, or is refused, as the wire facts say."""

from collections import Counter
from pathlib import Path

import pytest
import zstandard

from coinspace._ext.binance import BinanceParser
from coinspace._ext.bithumb import BithumbParser
from coinspace._ext.parser import Parser
from coinspace._ext.upbit import UpbitParser
from tests.fuzz import twin

MARKETS = {"BTCUSDT": "BTC/USDT", "ETHUSDT": "ETH/USDT"}
# file: line -> kinds of its messages where they are not one of the file's own
EXCEPTIONS = {
    # no type, no code
    ("bithumb", "orderbook", 5): ["malformed"],
    # legacy socket
    ("bithumb", "orderbook", 8): ["malformed"],
    ("bithumb", "orderbook", 9): ["malformed"],
    ("bithumb", "ticker", 8): ["malformed"],
    **{("bithumb", "trade", line): ["malformed"] for line in range(5, 10)},
    # price, size and side trimmed away
    ("bithumb", "trade", 4): ["malformed"],
    # 2018: `market` or `mk` for the code, no type
    ("upbit", "ticker", 5): ["malformed"],
    ("upbit", "trade", 6): ["malformed"],
    ("upbit", "trade", 7): ["malformed"],
    # a list of two
    ("upbit", "trade", 5): ["trade", "trade"],
    **{("binance", "orderbook", line): ["top"] for line in (4, 7, 22, 23, 24, 25, 32, 33)},
}
NAMES = [
    f"{exchange}_{kind}"
    for exchange in ("upbit", "bithumb", "binance")
    for kind in ("orderbook", "ticker", "trade")
]


def parser(exchange: str) -> Parser:
    if exchange == "binance":
        return BinanceParser(markets=MARKETS)
    return UpbitParser() if exchange == "upbit" else BithumbParser()


@pytest.mark.parametrize("name", NAMES)
def test_single_frames(feeds: Path, name: str) -> None:
    exchange, kind = name.split("_")
    ours = parser(exchange)
    lines = (feeds / "frames" / f"{name}.ndjson").read_bytes().splitlines()
    for number, line in enumerate(lines, 1):
        messages = ours.decode(line)
        expected = EXCEPTIONS.get((exchange, kind, number), [kind])
        assert [one["kind"] for one in messages] == expected, (number, messages)
        assert twin.shown(messages) == twin.shown(twin.decode(exchange, line, MARKETS)), number
        # cut anywhere, it is not a message
        for size in range(len(line)):
            assert [one["kind"] for one in ours.decode(line[:size])] == ["malformed"], (
                number,
                size,
            )


def test_control_frames(feeds: Path) -> None:
    rows = (feeds / "frames" / "control_frames.tsv").read_bytes().splitlines()[1:]
    named = []
    for row in rows:
        name, frame, _ = row.split(b"\t")
        (message,) = parser(name.decode().split("-")[0]).decode(frame)
        named.append((name.decode(), message["kind"], message.get("name", message.get("type"))))
    assert Counter(named) == {
        ("upbit", "control", "status"): 1,
        ("upbit", "control", "error"): 7,
        ("upbit", "ignored", "LIST_SUBSCRIPTIONS"): 1,
        ("bithumb", "control", "status"): 1,
        ("bithumb", "control", "error"): 5,
        ("bithumb-legacy", "malformed", None): 3,
        ("binance", "control", "ack"): 1,
        ("binance", "ignored", "LIST_SUBSCRIPTIONS"): 1,
        ("binance", "control", "error"): 2,
        ("binance", "control", "shutdown"): 2,
    }


RECORDINGS = {
    "upbit-9-codes-20210405": {"orderbook": 1061, "trade": 672},
    "binance-btcusdt-20240808": {"orderbook": 3451, "top": 28040, "trade": 9757},
    "binance-btc-eth-dot-20210404": {"orderbook": 2688, "trade": 1910, "ignored": 118},
    "bithumb-legacy-20210601": {"malformed": 98},
}


@pytest.mark.parametrize("name", RECORDINGS)
def test_recordings(feeds: Path, name: str) -> None:
    exchange = name.split("-")[0]
    ours = parser(exchange)
    kinds: Counter[str] = Counter()
    with (feeds / f"{name}.feed.zst").open("rb") as file:
        text = zstandard.ZstdDecompressor().stream_reader(file, read_across_frames=True).read()
    for line in text.splitlines():
        record = line.split(b" ", 2)
        if record[1] != b"<":
            continue
        messages = ours.decode(record[2])
        kinds.update(one["kind"] for one in messages)
        # every 20th frame is compared with the twin, which is slow
        if sum(kinds.values()) % 20 == 0:
            assert twin.shown(messages) == twin.shown(twin.decode(exchange, record[2], MARKETS))
        for one in messages:
            if one["kind"] == "orderbook" and one["snapshot"] and one["bids"] and one["asks"]:
                assert one["bids"][0][0] < one["asks"][0][0]
    assert kinds == RECORDINGS[name]


def test_known_values() -> None:
    upbit = UpbitParser()
    frame = (
        b'{"type":"orderbook","code":"KRW-BTC","timestamp":1790134742106,"orderbook_units":['
        b'{"ask_price":1.16539E8,"bid_price":9.9E-7,"ask_size":7.9276E-4,"bid_size":5.0E-4},'
        b'{"ask_price":0,"bid_price":6E-8,"ask_size":0.0,"bid_size":0.00077720}]}'
    )
    assert upbit.decode(frame) == [
        {
            "kind": "orderbook",
            "exchange": "upbit",
            "market": "BTC/KRW",
            "symbol": "KRW-BTC",
            "snapshot": True,
            "exchange_ns": 1_790_134_742_106_000_000,
            "bids": [[9.9e-7, 0.0005], [6e-8, 0.0007772]],
            "asks": [[116539000.0, 0.00079276]],
        }
    ]
    (trade,) = BithumbParser().decode(
        b'{"type":"trade","code":"KRW-BTC","trade_price":116208000,"trade_volume":0.0009,'
        b'"ask_bid":"ASK","trade_timestamp":1790133513739,"sequential_id":1079953210371761701,'
        b'"stream_type":"SNAPSHOT"}'
    )
    assert trade["trade_id"] == 1_079_953_210_371_761_701
    assert (trade["side"], trade["snapshot"]) == ("sell", True)
