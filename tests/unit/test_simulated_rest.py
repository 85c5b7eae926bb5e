"""REST of the simulated exchanges: pages, days, units of times, blocked addresses."""

from __future__ import annotations

from urllib.parse import parse_qsl

import orjson
import pytest

from coinspace.clock import SECOND_NS
from coinspace.exchanges import exchange, korean
from coinspace.exchanges.exchange import Request, RestTrade, TradePage, block_s
from coinspace.simulator.markets.engine import START_NS, Engine
from coinspace.simulator.rest import BLOCK_S, Rest, rest_of

S = SECOND_NS
# a midnight of UTC is 09:00 in Korea
MIDNIGHT = {"upbit": START_NS, "bithumb": START_NS + 15 * 3600 * S}
SYMBOL = "KRW-BTC"


def rest(name: str, market: str, start_ns: int, seconds: int) -> tuple[Rest, Engine]:
    engine = Engine(3, {name: [market]}, start_ns=start_ns)
    engine.advance(start_ns + seconds * S)
    return rest_of(name)(engine, name, limits=False), engine


def read(name: str, served: Rest, path: str, *, micro: bool = False) -> list[RestTrade]:
    place, _, query = path.partition("?")
    answer = served.get(place, dict(parse_qsl(query)), 0.0, micro=micro)
    assert answer.status == 200, answer.body
    module = exchange(name)
    request = module.trades_request("BTCUSDT" if name == "binance" else SYMBOL)
    return module.read_trades(request, answer.body)


@pytest.mark.parametrize("name", ["upbit", "bithumb"])
def test_trades_are_listed_by_day_and_read_back_over_midnight(name: str) -> None:
    midnight = MIDNIGHT[name]
    served, engine = rest(name, "BTC/KRW", midnight - 60 * S, 90)
    module = exchange(name)
    path = module.trades_request(SYMBOL).path
    days = ("days_ago", "daysAgo")[name == "bithumb"]
    today = read(name, served, path)
    yesterday = read(name, served, f"{path}&{days}=1")
    assert today
    assert yesterday
    assert max(one.exchange_ns for one in yesterday) < midnight
    assert min(one.exchange_ns for one in today) >= midnight
    ids = [one.trade_id for one in (*yesterday, *today)]
    assert len(ids) == len(set(ids)) == len(served.markets[SYMBOL].recent)
    found: dict[int, RestTrade] = {}
    request: Request | None = module.trades_request(SYMBOL)
    while request is not None:
        trades = read(name, served, request.path.replace("count=500", "count=40"))
        fresh = any(one.trade_id not in found for one in trades)
        found.update((one.trade_id, one) for one in trades)
        oldest = min(found.values(), key=lambda one: one.exchange_ns)
        page = TradePage(request, trades, fresh, oldest, midnight - 60 * S, engine.now_ns)
        request = module.older_trades_request(page)
    assert sorted(found) == sorted(ids)


def test_a_list_can_end_at_a_time_of_the_day() -> None:
    served, _ = rest("upbit", "BTC/KRW", START_NS, 60)
    path = exchange("upbit").trades_request(SYMBOL).path
    until = read("upbit", served, f"{path}&to=00:00:20")
    assert 0 < len(until) < len(read("upbit", served, path))
    assert max(one.exchange_ns for one in until) < START_NS + 21 * S


def test_upbit_blocks_an_address_that_ignores_refusals_and_says_so_in_the_body() -> None:
    served, _ = rest("upbit", "BTC/KRW", START_NS, 1)
    served.limits = True
    path, query = korean.BOOKS, {"markets": SYMBOL}
    statuses = [served.get(path, query, 0.0).status for _ in range(30)]
    assert statuses[:10] == [200] * 10
    assert set(statuses[10:20]) == {429}
    blocked = served.get(path, query, 1.0)
    assert blocked.status == 418
    assert "Retry-After" not in blocked.headers
    assert block_s(blocked.body, 0.0) == BLOCK_S
    assert served.get(path, query, BLOCK_S + 1.0).status == 200


def test_binance_trades_have_the_time_unit_that_is_asked_for() -> None:
    served, _ = rest("binance", "BTC/USDT", START_NS, 30)
    path = exchange("binance").trades_request("BTCUSDT").path
    coarse = read("binance", served, path)
    fine = read("binance", served, path, micro=True)
    assert any(one.exchange_ns % 1_000_000 for one in fine)
    assert [one.exchange_ns // 1_000_000 for one in fine] == [
        one.exchange_ns // 1_000_000 for one in coarse
    ]


def test_aggregates_have_the_trades_that_they_name() -> None:
    served, _ = rest("binance", "BTC/USDT", START_NS, 60)
    query = {"symbol": "BTCUSDT", "limit": "1000"}
    singles = {row["id"]: row for row in orjson.loads(served.get("/api/v3/trades", query, 0).body)}
    rows = orjson.loads(served.get("/api/v3/aggTrades", query, 0).body)
    ids = [id for row in rows for id in range(row["f"], row["l"] + 1)]
    assert ids == sorted(singles)
    for row in rows:
        parts = [singles[id] for id in range(row["f"], row["l"] + 1)]
        assert {(one["time"], one["price"], one["isBuyerMaker"]) for one in parts} == {
            (row["T"], row["p"], row["m"])
        }
        assert float(row["q"]) == pytest.approx(sum(float(one["qty"]) for one in parts))
    middle = rows[len(rows) // 2]
    later = {"fromId": str(middle["a"])}, {"startTime": str(middle["T"])}
    for more in later:
        found = orjson.loads(served.get("/api/v3/aggTrades", query | more, 0).body)
        assert found[-1] == rows[-1]
        assert found[0]["T"] == middle["T"]
