"""One frame with a list of many messages costs its size once, and each message stays itself."""

import orjson
import pytest

from benchmarks import frames as generated
from coinspace._ext.collector import MOST_CONTROLS, MOST_MESSAGES
from coinspace._ext.sink import ListSink
from coinspace.collector.orderbook import OrderBookStage
from coinspace.collector.stage import CONTROL_BYTES
from coinspace.collector.ticker import TickerStage
from coinspace.exchanges import exchange as named
from coinspace.exchanges.exchange import Exchange

NOW = 1_790_000_000_000_000_000
binance, bithumb, coinbase, coinone, upbit = map(
    named, ("binance", "bithumb", "coinbase", "coinone", "upbit")
)
HEARTBEAT = {"type": "heartbeat", "product_id": "BTC-USD", "last_trade_id": 1}
CONTROLS = [
    pytest.param(binance, "BTCUSDT", {"result": None, "id": 1}, id="binance ack"),
    pytest.param(binance, "BTCUSDT", {"code": 2, "msg": "x", "id": 1}, id="binance error"),
    pytest.param(upbit, "KRW-BTC", {"status": "UP"}, id="upbit status"),
    pytest.param(upbit, "KRW-BTC", {"error": {"name": "x", "message": "y"}}, id="upbit error"),
    pytest.param(bithumb, "KRW-BTC", {"error": {"name": "x", "message": "y"}}, id="bithumb error"),
    pytest.param(coinone, "BTC", {"response_type": "PONG"}, id="coinone pong"),
    pytest.param(coinone, "BTC", {"response_type": "ERROR", "error_code": 1}, id="coinone error"),
    pytest.param(coinbase, "BTC-USD", HEARTBEAT, id="coinbase heartbeat"),
    pytest.param(coinbase, "BTC-USD", {"type": "error", "message": "x"}, id="coinbase error"),
]


# 1000 lists in one another: repr() of them fails
DEEP = b"[" * 1000 + b"]" * 1000
DENSE = b"[" + b",".join([b'{"a":[]}'] * 100_000) + b"]"
REFUSALS = [
    pytest.param(binance, "BTCUSDT", b'{"code":%s,"msg":%s}', id="binance"),
    pytest.param(binance, "BTCUSDT", b'{"error":{"code":%s,"msg":%s}}', id="binance wrapped"),
    pytest.param(upbit, "KRW-BTC", b'{"error":{"name":%s,"message":%s}}', id="upbit"),
    pytest.param(bithumb, "KRW-BTC", b'{"error":{"name":%s,"message":%s}}', id="bithumb"),
    pytest.param(
        coinone,
        "BTC",
        b'{"response_type":"ERROR","result":"error","error_code":%s,"message":%s}',
        id="coinone",
    ),
    pytest.param(coinbase, "BTC-USD", b'{"type":"error","message":%s,"reason":%s}', id="coinbase"),
]


def listed(messages: list[bytes]) -> bytes:
    return b"[" + b",".join(messages) + b"]"


def update(number: int) -> bytes:
    return orjson.dumps(
        {
            "e": "depthUpdate",
            "E": NOW // 1_000_000,
            "s": "BTCUSDT",
            "U": number,
            "u": number,
            "b": [[str(100 + number / 1000), "1"]],
            "a": [],
        }
    )


@pytest.mark.parametrize(("exchange", "symbol", "message"), CONTROLS)
def test_each_control_message_of_a_list_is_read_alone(
    exchange: Exchange, symbol: str, message: dict[str, object], monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[bytes] = []
    frame = listed([orjson.dumps(message)] * 3)
    stage = TickerStage(exchange, [(symbol, "BTC/X")], ListSink(10))
    stage.on_frame(frame, NOW, 1)
    assert (stage.controls, stage.malformed) == (3, 0)
    monkeypatch.setattr(stage, "on_control", lambda frame, at_ns, connection: read.append(frame))
    stage.on_frame(frame, NOW, 1)
    assert [orjson.loads(one) for one in read] == [message] * 3


def test_a_list_of_more_control_messages_than_any_exchange_sends_is_malformed() -> None:
    message = orjson.dumps(HEARTBEAT)
    stage = TickerStage(coinbase, [("BTC-USD", "BTC/USD")], ListSink(10))
    stage.on_frame(listed([message] * MOST_CONTROLS), NOW, 1)
    assert (stage.controls, stage.malformed) == (MOST_CONTROLS, 0)
    stage.on_frame(listed([message] * 100_000), NOW, 1)
    assert (stage.controls, stage.malformed) == (2 * MOST_CONTROLS, 1)


def test_a_list_of_more_messages_than_any_exchange_sends_is_malformed() -> None:
    ignored = orjson.dumps({"type": "x"})
    stage = TickerStage(coinbase, [("BTC-USD", "BTC/USD")], ListSink(10))
    stage.on_frame(listed([ignored] * MOST_MESSAGES), NOW, 1)
    assert (stage.ignored, stage.malformed) == (MOST_MESSAGES, 0)
    stage.on_frame(listed([ignored] * (MOST_MESSAGES + 1)), NOW, 1)
    assert (stage.ignored, stage.malformed) == (2 * MOST_MESSAGES, 1)


def test_updates_of_a_list_are_kept_one_by_one() -> None:
    stage = OrderBookStage(binance, [("BTCUSDT", "BTC/USDT")], ListSink(10), depth=20)
    frame = listed([update(number) for number in range(1, 501)])
    stage.on_frame(frame, NOW, 1)
    (sync,) = stage.syncs
    assert len(sync.buffer) == 500
    assert sync.buffer_bytes == len(frame) - 501

    request = next(one for one in stage.take_requests() if one.purpose == "snapshot")
    stage.on_connected(1, ("BTCUSDT",), NOW)
    answer = {"lastUpdateId": 100, "bids": [["90", "1"]], "asks": [["110", "1"]]}
    stage.on_answer(request, orjson.dumps(answer), NOW)
    (market,) = stage.markets
    assert market.update_id == 500
    bids, _ = market.top()
    # the best ones of updates 101 to 500
    assert bids[0].tolist() == [100 + number / 1000 for number in range(500, 480, -1)]


def test_a_binary_frame_with_more_trades_than_any_exchange_sends_is_malformed() -> None:
    one = generated.frames("binance-sbe-trade", 1)[0]
    assert int.from_bytes(one[28:32], "little") == 1
    trade, name = one[32:57], one[57:]
    many = one[:28] + (20_000).to_bytes(4, "little") + trade * 20_000 + name
    stage = TickerStage(binance, [("BTCUSDT", "BTC/USDT")], ListSink(10))
    stage.on_frame(many, NOW, 1)
    assert (stage.messages, stage.malformed) == (MOST_MESSAGES, 1)


@pytest.mark.parametrize(("exchange", "symbol", "form"), REFUSALS)
def test_lists_in_a_refusal_have_no_text(exchange: Exchange, symbol: str, form: bytes) -> None:
    stage = TickerStage(exchange, [(symbol, "BTC/X")], ListSink(10))
    for value in (DEEP, b"[1,2]", b'{"a":1}'):
        stage.on_frame(form % (value, value), NOW, 1)
        for status in (200, 400, 429):
            # no error
            exchange.refusal_of_answer(status, form % (value, value))
    assert stage.counts["error_frames"] + stage.malformed + stage.ignored == 3


def test_a_control_message_larger_than_any_is_not_read() -> None:
    stage = TickerStage(upbit, [("KRW-BTC", "BTC/KRW")], ListSink(10))
    large = b'{"error":{"name":%s,"message":"x"}}' % DENSE
    assert len(large) > CONTROL_BYTES
    stage.on_frame(large, NOW, 1)
    assert stage.counts["error_frames"] == 0
    assert stage.take_refusal(1) is None
