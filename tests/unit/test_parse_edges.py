"""Edges of the wire formats that no recording shows."""

import json
from typing import Any

import numpy as np
import pytest

from coinspace._ext.binance import BinanceParser
from coinspace._ext.bithumb import BithumbParser
from coinspace._ext.upbit import UpbitParser

TRADE = {
    "type": "trade",
    "code": "KRW-BTC",
    "trade_price": 100473000.5,
    "trade_volume": 0.00014208,
    "ask_bid": "BID",
    "trade_timestamp": 1730336862047,
    "sequential_id": 17303368620470000,
    "stream_type": "REALTIME",
}
DIFF = {
    "e": "depthUpdate",
    "E": 1672515782136,
    "s": "BTCUSDT",
    "U": 157,
    "u": 160,
    "b": [["0.0024", "10"]],
    "a": [["0.0026", "0"]],
}


def one(parser: Any, frame: Any) -> dict[str, Any]:
    raw = frame if isinstance(frame, bytes) else json.dumps(frame).encode()
    (message,) = parser.decode(raw)
    assert isinstance(message, dict)
    return message


def unit(ask: float, bid: float, ask_size: float = 1.0, bid_size: float = 1.0) -> dict[str, float]:
    return {"ask_price": ask, "bid_price": bid, "ask_size": ask_size, "bid_size": bid_size}


def book(*units: dict[str, float]) -> dict[str, Any]:
    return {"type": "orderbook", "code": "KRW-BTC", "timestamp": 1, "orderbook_units": units}


@pytest.mark.parametrize(
    ("frame", "reason"),
    [
        (b"", "empty frame"),
        (b" \n\t\r ", "frame cut short"),
        (b"PING", "expected JSON"),
        (b"null", "expected an object or a list of objects"),
        (b'"orderbook"', "expected an object or a list of objects"),
        (b"[]", "expected messages, was an empty list"),
        (b"{}", "expected a field that shows the kind of message, found none"),
        (b'{"type":"trade"', "frame cut short"),
        (b'{"type":"trade"}x', "expected the end of the frame behind the message"),
        (b'{"type":"trade"}{}', "expected the end of the frame behind the message"),
        (b'{"type":"trade"}', "code: missing"),
        (b'{"type":"trade","code":""}', "code: unexpected value"),
        (b'{"type":7}', "type: unexpected value"),
        (b"\xef\xbb\xbf{}", "expected JSON"),
        (b"{'type':1}", "expected JSON"),
        (b'{"type":"trade",}', "expected JSON"),
        (b'{"type":NaN}', "expected JSON"),
        (b'{"x":1e400}', "expected JSON"),
        (b'{"x":01}', "expected JSON"),
        (b'{"x":"\\x41"}', "expected JSON"),
        (b'{"x":"\\ud800"}', "expected JSON"),
        (b'{"x":"\xff"}', "expected JSON"),
        (b'{"x":"\xed\xa0\x80"}', "expected JSON"),
        (b'{"x":"a\nb"}', "expected JSON"),
        (b'{"x":' + b"[" * 1024 + b"]" * 1024 + b"}", "expected JSON"),
        (b'{"x":' + b'{"a":' * 200_000, "expected JSON"),
    ],
)  # fmt: skip
def test_bad_frames_have_a_reason(frame: bytes, reason: str) -> None:
    parser = UpbitParser()
    message = one(parser, frame)
    assert (message["kind"], message["reason"]) == ("malformed", reason)
    assert 0 <= message["offset"] <= len(frame)
    assert parser.malformed == 1


def test_deepest_nesting_that_is_skipped() -> None:
    nested = b"[" * 1023 + b"]" * 1023
    assert one(UpbitParser(), b'{"x":' + nested + b',"status":"UP"}')["name"] == "status"


@pytest.mark.parametrize("key", [key for key in TRADE if key != "stream_type"])
def test_a_trade_needs_each_of_its_fields(key: str) -> None:
    assert one(UpbitParser(), TRADE)["kind"] == "trade"
    without = {name: value for name, value in TRADE.items() if name != key}
    assert one(UpbitParser(), without)["kind"] == "malformed"
    assert one(UpbitParser(), {**TRADE, key: None})["kind"] == "malformed"
    assert one(UpbitParser(), {**TRADE, key: [1]})["kind"] == "malformed"


@pytest.mark.parametrize("key", ["s", "U", "u", "b", "a"])
def test_a_diff_needs_each_of_its_fields(key: str) -> None:
    assert one(BinanceParser(), DIFF)["kind"] == "orderbook"
    without = {name: value for name, value in DIFF.items() if name != key}
    assert one(BinanceParser(), without)["kind"] == "malformed"


def test_a_bad_field_of_a_kind_not_used_does_not_matter() -> None:
    candle = {"type": "candle.1s", "code": 7, "trade_price": "abc", "timestamp": []}
    assert one(UpbitParser(), candle)["type"] == "candle.1s"
    kline = {
        "stream": "btcusdt@kline_1m",
        "data": {"e": "kline", "E": {}, "s": 1, "k": {"a": [[]]}},
    }
    assert one(BinanceParser(), kline)["type"] == "kline"


def test_unsorted_levels_come_out_best_first() -> None:
    frame = book(unit(103, 99), unit(101, 97, 2, 2), unit(102, 98), unit(101, 99, 3, 3))
    message = one(UpbitParser(), frame)
    assert message["asks"] == [[101, 2], [101, 3], [102, 1], [103, 1]]
    assert message["bids"] == [[99, 1], [99, 3], [98, 1], [97, 2]]


@pytest.mark.parametrize("order", ["sorted", "reversed", "shuffled"])
@pytest.mark.parametrize("levels", [4, 5, 9, 10, 11, 64, 1000])
def test_levels_beyond_capacity_are_dropped_from_the_far_end(order: str, levels: int) -> None:
    rng = np.random.default_rng(levels)
    steps = np.arange(levels)
    if order == "reversed":
        steps = steps[::-1]
    elif order == "shuffled":
        steps = rng.permutation(steps)
    parser = UpbitParser(5)
    message = one(parser, book(*(unit(1001 + int(i), 1000 - int(i)) for i in steps if i < 1000)))
    kept = min(5, levels)
    assert [price for price, _ in message["asks"]] == [1001 + i for i in range(kept)]
    assert [price for price, _ in message["bids"]] == [1000 - i for i in range(kept)]
    assert parser.levels_dropped == 2 * (levels - kept)


def test_sides_are_filtered_apart() -> None:
    frame = book(unit(101, 100, 0, 1), unit(0, 99, 0, 1), unit(103, -5, 2, 1), unit(104, 97, 1, -1))
    message = one(BithumbParser(), frame)
    assert message["asks"] == [[103, 2], [104, 1]]
    assert message["bids"] == [[100, 1], [99, 1]]


def test_an_empty_book_is_a_book() -> None:
    message = one(UpbitParser(), book())
    assert (message["kind"], message["bids"], message["asks"]) == ("orderbook", [], [])


def test_a_unit_without_a_size_is_refused() -> None:
    assert one(UpbitParser(), book({"ask_price": 1, "bid_price": 1}))["kind"] == "malformed"  # type: ignore[typeddict-item, unused-ignore]


@pytest.mark.parametrize(
    ("level", "kind"),
    [
        (["1", "0"], "orderbook"),
        (["1", "0.00000000", []], "orderbook"),
        (["1", "-1"], "malformed"),
        (["0", "1"], "malformed"),
        (["-1", "0"], "malformed"),
        (["1"], "malformed"),
        (["x", "1"], "malformed"),
        (["1", " 1"], "malformed"),
        (["1", "1_0"], "malformed"),
        (["1", None], "malformed"),
        ([1, 2.5], "orderbook"),
    ],
)
def test_levels_of_a_diff(level: list[Any], kind: str) -> None:
    parser = BinanceParser()
    assert one(parser, {**DIFF, "a": [level]})["kind"] == kind
    # no part of a refused frame is kept
    assert one(parser, DIFF)["asks"] == [[0.0026, 0.0]]


@pytest.mark.parametrize(
    ("time", "ns"),
    [
        (1730336862047, 1_730_336_862_047_000_000),
        (1730336862047123, 1_730_336_862_047_123_000),
        (1730336862047123456, 1_730_336_862_047_123_456),
        (1730336862, 1_730_336_862_000_000_000),
        (0, None),
        (-1, "malformed"),
        (9_999_999_999_999, "malformed"),
        (1730336862047.5, "malformed"),
        (10**30, "malformed"),
    ],
)
def test_the_magnitude_of_a_time_shows_its_unit(time: float, ns: object) -> None:
    message = one(BinanceParser(), {**DIFF, "E": time})
    assert message.get("exchange_ns", message["kind"]) == ns


def test_combined_wrapper_in_any_order() -> None:
    parser = BinanceParser(markets={"BTCUSDT": "BTC/USDT"})
    data = '{"lastUpdateId":160,"bids":[["0.0024","10"]],"asks":[["0.0026","100"]]}'
    for frame in (
        f'{{"stream":"btcusdt@depth20@100ms","data":{data}}}',
        f' {{ "x" : [{{}}] , "data" : {data} , "stream" : "btcusdt\\u0040depth5" }} ',
    ):
        message = one(parser, frame.encode())
        assert (message["market"], message["symbol"]) == ("BTC/USDT", "BTCUSDT")
        assert message["final_update_id"] == 160
    message = one(parser, data.encode())
    assert (message["market"], message["symbol"], message["exchange_ns"]) == (None, None, None)


def test_several_messages_in_one_frame() -> None:
    ticker = {"e": "24hrMiniTicker", "E": 1672515782136, "s": "ÀUSDT", "c": "1.5"}
    other = {**ticker, "s": "B", "c": None}
    frame = {"stream": "!miniTicker@arr", "data": [ticker, other, 5, ticker]}
    kinds = [message["kind"] for message in BinanceParser().decode(json.dumps(frame).encode())]
    assert kinds == ["ticker", "malformed", "malformed", "ticker"]
    assert one(BinanceParser(), {"stream": "!miniTicker@arr", "data": []})["kind"] == "malformed"
    # a list that is cut gives no message, not even those before the cut
    cut = json.dumps([TRADE, TRADE]).encode()[:-1]
    assert [message["kind"] for message in UpbitParser().decode(cut)] == ["malformed"]
    assert len(UpbitParser().decode(json.dumps([TRADE, TRADE]).encode())) == 2


def test_the_last_of_repeated_keys_counts() -> None:
    frame = json.dumps(TRADE).encode()[:-1] + b',"trade_price":2,"ask_bid":"ASK"}'
    message = one(UpbitParser(), frame)
    assert (message["price"], message["side"]) == (2.0, "sell")


@pytest.mark.parametrize("escaped", ['a\\"b', "a\\nb", "a\\\\x", "a\\u0001"])
def test_a_key_with_escapes_does_not_allow_its_characters(escaped: str) -> None:
    # the frame ends with as many bytes as a key comparison reads
    tail = ',"pad":"' + "x" * 40 + '"}'
    parser = UpbitParser()
    good = '{"status":"UP","' + escaped + '":1' + tail
    bad = '{"status":"UP","' + json.loads(f'"{escaped}"') + '":1' + tail
    for frame, kind in ((good, "control"), (bad, "malformed"), (good, "control")):
        assert one(parser, frame.encode())["kind"] == kind


def test_a_frame_of_16_mib() -> None:
    pad = b'"' + b"x" * (1 << 24) + b'"'
    frame = json.dumps(TRADE).encode()[:-1] + b',"pad":' + pad + b"}"
    assert one(UpbitParser(), frame)["kind"] == "trade"
    assert one(UpbitParser(), frame[:-1])["kind"] == "malformed"


def test_python_view_of_the_last_message() -> None:
    parser = UpbitParser()
    assert parser.parse(json.dumps(book(unit(101, 100), unit(102, 99))).encode()) == 1
    np.testing.assert_array_equal(parser.asks, [[101, 102], [1, 1]])
    np.testing.assert_array_equal(parser.bids, [[100, 99], [1, 1]])
    assert (parser.symbol_name, parser.n_bids, parser.exchange_ns) == ("KRW-BTC", 2, 10**9)
    assert parser.parse(b"[%s,%s]" % ((json.dumps(TRADE).encode(),) * 2)) == 2
    assert (parser.price, parser.sell) == (100473000.5, False)
    with pytest.raises(TypeError):
        parser.parse(None)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="expected 1 to"):
        UpbitParser(0)
