"""What the exchange modules send and read, without a socket."""

import inspect
import re
from pathlib import Path
from typing import Any

import orjson
import pytest

from coinspace.config import load
from coinspace.errors import ConfigError
from coinspace.exchanges import EXCHANGES, exchange
from coinspace.exchanges.exchange import Exchange, Request, day_ns
from coinspace.exchanges.identity import identity, summable
from coinspace.market import Market

SETTINGS = load().exchanges


def names_of(module: Any) -> list[str]:
    """Return constants and functions in the order of the file."""
    source = Path(inspect.getfile(module)).read_text().splitlines()
    wanted = {name for name in (*Exchange.__annotations__, *vars(Exchange)) if name[0] != "_"}
    found = [re.split(r"[(: ]", line.removeprefix("def "))[0] for line in source]
    return [name for name in found if name in wanted]


def test_every_exchange_defines_the_same_names_in_the_same_order() -> None:
    lists = [names_of(exchange(name)) for name in EXCHANGES]
    assert all(one == lists[0] for one in lists)
    assert len(lists[0]) == len(set(lists[0])) > 15


def test_an_unknown_exchange_is_refused() -> None:
    with pytest.raises(ConfigError, match="upbit, bithumb, binance"):
        exchange("kraken")


@pytest.mark.parametrize("name", ["upbit", "bithumb"])
def test_one_frame_subscribes_to_everything(name: str) -> None:
    spelled = exchange(name)
    (books,) = spelled.subscriptions(SETTINGS[name], ("orderbook",), ["KRW-BTC", "KRW-ETH"])
    (frame,) = books.frames
    ticket, part, form = orjson.loads(frame)
    assert set(ticket) == {"ticket"}
    assert part["codes"] == ["KRW-BTC", "KRW-ETH"]
    assert form == {"format": "SIMPLE"}
    (ticks,) = spelled.subscriptions(SETTINGS[name], ("ticker", "trade"), ["KRW-BTC"])
    assert [part["type"] for part in orjson.loads(ticks.frames[0])[1:-1]] == ["ticker", "trade"]


def test_bithumb_never_sends_a_level_and_upbit_asks_for_none() -> None:
    (one,) = exchange("bithumb").subscriptions(SETTINGS["bithumb"], ("orderbook",), ["KRW-BTC"])
    assert "level" not in orjson.loads(one.frames[0])[1]
    (one,) = exchange("upbit").subscriptions(SETTINGS["upbit"], ("orderbook",), ["KRW-BTC"])
    assert orjson.loads(one.frames[0])[1]["level"] == 0


def test_only_upbit_has_the_list_formats() -> None:
    settings = SETTINGS["upbit"].model_copy(update={"format": "SIMPLE_LIST"})
    (one,) = exchange("upbit").subscriptions(settings, ("trade",), ["KRW-BTC"])
    assert orjson.loads(one.frames[0])[-1] == {"format": "SIMPLE_LIST"}
    with pytest.raises(ConfigError, match="SIMPLE or DEFAULT, was 'SIMPLE_LIST'"):
        exchange("bithumb").subscriptions(settings, ("trade",), ["KRW-BTC"])


def test_upbit_depth_goes_into_the_codes() -> None:
    settings = SETTINGS["upbit"].model_copy(update={"depth": 5})
    (frame,) = exchange("upbit").subscriptions(settings, ("orderbook",), ["KRW-BTC"])[0].frames
    assert orjson.loads(frame)[1]["codes"] == ["KRW-BTC.5"]


def test_only_the_korean_streams_have_price_groups() -> None:
    assert {name for name in EXCHANGES if exchange(name).GROUPING} == {"upbit", "bithumb"}
    upbit, bithumb = (exchange(name).GROUPING for name in ("upbit", "bithumb"))
    assert upbit is not None
    assert bithumb is not None
    # Upbit's level is a width in KRW, Bithumb's a number of ticks
    assert (upbit.width(10_000, 1.2e8), bithumb.width(1000, 1.2e8)) == (10_000, 1_000_000)
    for one, level, spelled in ((upbit, 10_000.0, 10_000), (bithumb, 0.1, 0.1)):
        part = orjson.loads(one.frame(SETTINGS["upbit"], "KRW-BTC", level))[1]
        assert part == {"type": "orderbook", "codes": ["KRW-BTC"], "level": spelled}


def test_the_supported_levels_of_upbit_are_read() -> None:
    grouping = exchange("upbit").GROUPING
    assert grouping is not None
    assert grouping.request is not None
    assert grouping.read is not None
    request = grouping.request(["KRW-BTC", "KRW-XRP"])
    assert request.path == "/v1/orderbook/instruments?markets=KRW-BTC,KRW-XRP"
    answer = [
        {"market": "KRW-BTC", "tick_size": "1000", "supported_levels": ["0", "10000", "100000"]},
        {"market": "KRW-XRP", "tick_size": "1", "supported_levels": ["0"]},
    ]
    found = grouping.read(orjson.dumps(answer))
    assert found == {"KRW-BTC": (10_000, 100_000), "KRW-XRP": ()}


@pytest.mark.parametrize(
    ("levels", "price", "count", "reach", "expected"),
    [
        # 30 groups of 10,000 reach 0.21 % of 140 million, those of 100,000 reach 2.1 %
        ((10_000, 100_000, 1_000_000), 1.4e8, 30, 0.01, 100_000),
        ((10_000, 100_000, 1_000_000), 1.4e8, 30, 0.002, 10_000),
        # none reaches so far: the widest
        ((10_000, 20_000), 1.4e8, 30, 0.01, 20_000),
        # 30 ticks of 1 KRW are 2 % of 1,450
        ((10, 100), 1450.0, 30, 0.01, None),
        ((), 1.4e8, 30, 0.01, None),
    ],
)
def test_the_finest_groups_that_reach_far_enough_are_chosen(
    levels: tuple[float, ...], price: float, count: int, reach: float, expected: float | None
) -> None:
    grouping = exchange("upbit").GROUPING
    assert grouping is not None
    assert grouping.finest(levels, price, count, reach) == expected


def test_a_frame_of_price_groups_has_a_kind_of_its_own() -> None:
    for name, single, grouped in (("upbit", b"0", b"1E+4"), ("bithumb", b"1", b"10000")):
        frame = b'{"ty":"orderbook","cd":"KRW-BTC","lv":%s}'
        assert exchange(name).label(frame % single).kinds == ("orderbook",)
        assert exchange(name).label(frame % grouped).kinds == ("orderbook.10000",)


def test_binance_streams_go_into_the_url_and_the_rest_into_frames() -> None:
    spelled = exchange("binance")
    (one,) = spelled.subscriptions(SETTINGS["binance"], ("ticker", "trade"), ["BTCUSDT"])
    assert one.url == (
        "wss://stream.binance.com:9443/stream?streams=btcusdt@ticker/btcusdt@trade"
        "&timeUnit=MICROSECOND"
    )
    assert one.frames == ()
    symbols = [f"S{i}USDT" for i in range(1500)]
    several = spelled.subscriptions(SETTINGS["binance"], ("orderbook",), symbols)
    assert [len(one.symbols) for one in several] == [1000, 500]
    asked = [
        name
        for one in several
        for name in (
            *one.url.partition("streams=")[2].partition("&")[0].split("/"),
            *(name for frame in one.frames for name in orjson.loads(frame)["params"]),
        )
    ]
    assert asked == [f"{symbol.lower()}@depth@100ms" for symbol in symbols]
    assert max(len(orjson.loads(f)["params"]) for one in several for f in one.frames) == 100


def test_binance_snapshots_have_the_weights_of_the_exchange() -> None:
    weights = [
        exchange("binance").snapshot_request("X", n).weight for n in (5, 100, 500, 1000, 5000)
    ]
    assert weights == [5, 5, 25, 50, 250]


def test_korean_books_are_compared_in_one_call_as_far_as_it_goes() -> None:
    symbols = [f"KRW-S{i}" for i in range(450)]
    assert len(exchange("upbit").compare_requests(symbols)) == 1
    assert [len(r.symbols) for r in exchange("bithumb").compare_requests(symbols)] == [200, 200, 50]


def test_bithumb_sends_errors_with_status_200() -> None:
    body = b'{"error":{"name":404,"message":"Code not found"}}'
    refusal = exchange("bithumb").refusal_of_answer(200, body)
    assert refusal is not None
    assert refusal.fatal
    assert "Code not found" in refusal.text
    assert exchange("bithumb").refusal_of_answer(200, b"[]") is None


@pytest.mark.parametrize(
    ("name", "status", "fatal"),
    [
        ("upbit", 404, True),
        ("upbit", 429, False),
        ("upbit", 418, False),
        ("bithumb", 500, False),
        ("binance", 400, True),
        ("binance", 403, False),
        ("binance", 429, False),
    ],
)
def test_a_refusal_that_passes_by_itself_is_not_fatal(name: str, status: int, fatal: bool) -> None:
    refusal = exchange(name).refusal_of_answer(status, b'{"code":-1121,"msg":"Invalid symbol."}')
    assert refusal is not None
    assert refusal.fatal is fatal


def test_error_frames_of_all_shapes_are_classified() -> None:
    upbit, binance = exchange("upbit"), exchange("binance")
    assert upbit.refusal_of_frame({"error": {"name": "NO_CODES", "message": "x"}}).fatal
    assert not upbit.refusal_of_frame({"error": {"name": "Too Many Requests"}}).fatal
    assert binance.refusal_of_frame({"code": 2, "msg": "Invalid request"}).fatal
    assert binance.refusal_of_frame({"error": {"code": 2, "msg": "bad"}, "id": 20}).fatal
    assert not binance.refusal_of_frame({"error": {"code": 3, "msg": "Too many requests"}}).fatal


def test_rest_books_have_no_padding_and_may_have_microseconds() -> None:
    unit = {"ask_price": 101, "bid_price": 100, "ask_size": 1, "bid_size": 0}
    entry = {"market": "KRW-BTC", "timestamp": 1790133505546514, "orderbook_units": [unit]}
    (book,) = exchange("bithumb").read_books(Request("compare", "", "", 0), orjson.dumps([entry]))
    assert (book.version, book.bids, book.asks) == (1790133505546, [], [(101.0, 1.0)])


def test_bithumb_rest_trades_in_kst_are_corrected() -> None:
    now_ms = 1_790_000_000_000
    entry = {
        "market": "KRW-BTC",
        "sequential_id": 17829816707050000,
        "trade_price": 1,
        "trade_volume": 1,
        "ask_bid": "ASK",
    }
    for written in (now_ms, now_ms + 9 * 3_600_000):
        request = Request("trades", "", "", 0, ("KRW-BTC",))
        payload = orjson.dumps([{**entry, "timestamp": written}])
        (trade,) = exchange("bithumb").read_trades(request, payload, now_ms * 1_000_000)
        assert trade.exchange_ns == now_ms * 1_000_000


def test_binance_markets_come_from_the_list() -> None:
    symbols = [
        {"symbol": "BTCUSDT", "baseAsset": "BTC", "quoteAsset": "USDT", "status": "TRADING"},
        {"symbol": "OLDUSDT", "baseAsset": "OLD", "quoteAsset": "USDT", "status": "BREAK"},
        {"symbol": "币安USDT", "baseAsset": "币安", "quoteAsset": "USDT", "status": "TRADING"},
        {"symbol": "ВТСUSDT", "baseAsset": "ВТС", "quoteAsset": "USDT", "status": "TRADING"},
    ]
    listings = exchange("binance").read_markets(orjson.dumps({"symbols": symbols}))
    assert [(one.market, one.trading) for one in listings] == [
        (Market("BTC", "USDT"), True),
        (Market("OLD", "USDT"), False),
        (Market("币安", "USDT"), True),
    ]


def test_names_mean_assets_by_exchange_and_day() -> None:
    day = day_ns("2026-01-01")
    assert summable("upbit", "BTC", "BTC", day) == 1
    assert summable("upbit", "TON", "TON", day) == 0
    assert summable("binance", "TON", "TON", day) == 1
    assert identity("binance", "1000SATS", day).multiplier == 1000
    before, after = day_ns("2022-05-27"), day_ns("2022-05-28")
    assert identity("binance", "LUNA", before).asset == "LUNC"
    assert identity("binance", "LUNA", after).asset == "LUNA"
