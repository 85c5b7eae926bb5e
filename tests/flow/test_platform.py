"""The whole platform on simulated exchanges, as `make run` starts it."""

import socket
import subprocess
import sys
import time
from functools import partial
from pathlib import Path
from typing import Any

import orjson
import pytest

from coinspace.config import Settings
from coinspace.method.reference import USD_KRW as RATE_MARKET
from coinspace.simulator.rates import SIMULATED_SOURCES, USD_KRW
from coinspace.simulator.simulated_feed import write_feeds
from tests import premium_oracle
from tests.flow.database import applied
from tests.flow.platform import Database, Platform, alive, environment, platform, query
from tests.waiting import wait_for

ASSETS = {"BTC", "ETH", "XRP", "SOL"}
KOREAN = {f"{asset}/KRW" for asset in ASSETS | {"USDT"}}
GLOBAL = {f"{asset}/USDT" for asset in ASSETS}
MARKETS = {
    *(("upbit", market) for market in KOREAN),
    *(("bithumb", market) for market in KOREAN),
    *(("binance", market) for market in GLOBAL),
}


def values(running: Platform) -> dict[str, str]:
    body = running.get("/v1/indices") or {}
    indices = body.get("indices", [])
    return {one["asset"]: one["value"] for one in indices if one["value"] is not None}


def complete(data: Path, table: str) -> bool:
    return set(query(data, f"select distinct exchange, market from {table}")) == MARKETS


@pytest.fixture(
    params=["zmq", *(pytest.param(name, marks=pytest.mark.slow) for name in ("nats", "streams"))]
)
def transport(request: pytest.FixtureRequest) -> dict[str, str]:
    """The environment that selects a transport: nothing else differs for a user."""
    if request.param == "zmq":
        return {}
    found = {"COINSPACE_BUS__URL": request.getfixturevalue("nats_url")}
    if request.param == "streams":
        found |= {
            "COINSPACE_BUS__PLATFORM": "streams",
            "COINSPACE_STREAMS__ENABLED": "true",
            "COINSPACE_STREAMS__MAX_BYTES": str(64 << 20),
            "COINSPACE_STORAGE__WORKERS": "2",
        }
    return found


@pytest.mark.timeout(600)
def test_platform_runs_end_to_end_and_stops_cleanly(
    tmp_path: Path, transport: dict[str, str]
) -> None:
    # 30 single levels of a book are stored: so the premiums can be computed from the stored ones
    depth = {
        "COINSPACE_EXCHANGES__BINANCE__DEPTH": "30",
        "COINSPACE_EXCHANGES__UPBIT__GROUP_REACH": "0",
        "COINSPACE_EXCHANGES__BITHUMB__GROUP_REACH": "0",
    }
    with platform(tmp_path, **depth, **transport) as running:
        wait_for(
            lambda: values(running).keys() == ASSETS, "an index value of every asset", limit_s=150
        )
        status = wait_for(lambda: healthy(running), "a healthy status", limit_s=120)
        assert len(status["processes"]) == 12 + 2 * ("COINSPACE_STORAGE__WORKERS" in transport)
        check_both_bases(running)
        check_facts(running)
        first = values(running)
        wait_for(lambda: values(running) != first, "the index to move")
        for table in ("orderbook", "ticker", "trade"):
            wait_for(partial(complete, tmp_path, table), f"every market in {table}")
        indices = "select distinct asset from index_tick where value is not null"
        wait_for(lambda: len(query(tmp_path, indices)) >= len(ASSETS), "every index in index_tick")
        usual = "fx_status = 'ok' and usd_krw_status = 'ok' and premium_a is not null"
        premiums = f"select count() from index_tick where {usual}"
        wait_for(lambda: query(tmp_path, premiums)[0][0] >= 300, "enough premiums on both bases")
        pids = running.pids()
        health = tmp_path / "run"
        assert running.stop() == 0
        # no process is left, and every row that the workers counted is in the database
        wait_for(lambda: not any(map(alive, pids.values())), "the end of every process")
        counted = {
            name: orjson.loads((health / f"{name}.json").read_bytes())["counters"] for name in pids
        }
    with Database(tmp_path):
        applied(Settings(data=tmp_path))
        # every book and price that a collector published is a row, repeats of a book are not
        books = [c for name, c in counted.items() if name.startswith("orderbook-collector")]
        published = sum(c["books_published"] - c["repeats"] for c in books)
        assert counts(tmp_path, "orderbook") == published > 0
        prices = [c for name, c in counted.items() if name.startswith("ticker-collector")]
        assert counts(tmp_path, "ticker") == sum(c["tickers"] for c in prices) > 0
        # premiums on both bases, computed a second time
        report = premium_oracle.check(Settings(data=tmp_path), instants=200, seed=7)
        assert report.differences == []
        # not those of the last seconds, whose books may not have been stored at the end
        assert report.compared["a"] == report.compared["b"] == report.instants >= 20
        assert report.assets == len(ASSETS)
        # by default the last seconds, whose messages may be on their way, are left out
        until_ms = str(time.time_ns() // 1_000_000)
        reconciled = running.run("reconcile", "--json", "--to", until_ms)
        assert reconciled.returncode == 0, reconciled.stdout


def test_platform_runs_on_recordings(tmp_path: Path, nats_url: str) -> None:
    """The exchanges, markets and assets are those that were recorded; the bus is on NATS."""
    markets = {"upbit": ["BTC/KRW", "USDT/KRW"], "bithumb": ["BTC/KRW", "USDT/KRW"]}
    markets["binance"] = ["BTC/USDT"]
    list(write_feeds(tmp_path / "day.feed.zst", 3, markets, duration_s=60))
    feeds = sorted(map(str, tmp_path.glob("day-*")))
    with platform(tmp_path, "--replay", *feeds, COINSPACE_BUS__URL=nats_url) as running:
        wait_for(lambda: values(running).keys() == {"BTC"}, "an index value", limit_s=150)
        venues = running.get("/v1/venues") or {}
        assert {(one["exchange"], one["market"]) for one in venues["venues"]} == {
            (exchange, market) for exchange, texts in markets.items() for market in texts
        }
        # each publisher, and its journal, is on the server
        assert not list((tmp_path / "run").glob("*.ipc"))
        assert running.stop() == 0
    assert "starting the exchanges of `coinspace replay`" in (tmp_path / "up.log").read_text()


def check_both_bases(running: Platform) -> None:
    """Check the premium against USDT and USD, and the rate of USD that it names."""
    one = wait_for(partial(with_fiat, running), "a premium against USD")
    coin, fiat, usdt = (float(one["premium"][name]) for name in ("coin", "fiat", "usdt"))
    assert (1 + fiat) == pytest.approx((1 + coin) * (1 + usdt), abs=1e-6)
    assert one["usd_krw_source"] in SIMULATED_SOURCES
    rate = running.get("/v1/usd-krw")
    assert float(rate["rate"]) == pytest.approx(USD_KRW, rel=0.002)
    assert [quoted["source"] for quoted in rate["sources"]] == list(SIMULATED_SOURCES)
    stored = f"select distinct exchange from rate where market = '{RATE_MARKET}'"
    wait_for(
        lambda: {name for (name,) in query(running.data, stored)} == set(SIMULATED_SOURCES),
        "a stored rate of every source",
    )
    (listed,) = running.get("/v1/usd-krw/quotations?source=naver&limit=1")["quotations"]
    assert (listed["source"], listed["daily"]) == ("naver", False)


def check_facts(running: Platform) -> None:
    """Check the facts beside the price in the API, beside a premium, and as rows."""
    wallets = {"upbit": "unknown", "bithumb": "open", "binance": "unknown"}
    found = wait_for(partial(with_facts, running), "facts of every market of BTC")
    assert {one["exchange"]: one["facts"]["deposit"] for one in found} == wallets
    assert {one["facts"]["trading"] for one in found} == {"open"}
    trades = wait_for(lambda: running.get("/v1/premium/BTC")["trades"], "what a premium leaves")
    shown = {one["venue"].partition(":")[0]: one for one in trades["venues"]}
    assert {name: one["wallet"] for name, one in shown.items()} == wallets
    assert {name: one["caution"] for name, one in shown.items()} == {
        **dict.fromkeys(("upbit", "bithumb"), "none"),
        "binance": "unknown",
    }
    # the exchange outside says nothing of its wallets
    assert {one["transfer"] for one in trades["directions"]} == {"unknown"}
    stored = "select distinct exchange, market, deposit from fact"
    expected = {(exchange, market, wallets[exchange]) for exchange, market in MARKETS}
    wait_for(
        lambda: expected <= set(query(running.data, stored)), "the facts of every market as rows"
    )


def with_facts(running: Platform) -> Any:
    found = (running.get("/v1/markets?asset=BTC") or {}).get("markets", [])
    return found if found and all(one["facts"]["ts"] for one in found) else None


def with_fiat(running: Platform) -> Any:
    found = running.get("/v1/premium/BTC")
    return found if found and found["premium"] and found["premium"]["fiat"] else None


def healthy(running: Platform) -> dict[str, list[object]] | None:
    done = running.run("status", "--json")
    return orjson.loads(done.stdout) if done.returncode == 0 else None


def counts(data: Path, table: str) -> int:
    return int(query(data, f"select count() from {table}")[0][0])


def test_taken_port_is_one_line(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        done = subprocess.run(
            [sys.executable, "-m", "coinspace", "up", "--simulate"],
            env=environment(tmp_path, port),
            cwd=tmp_path,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
    assert done.returncode == 1
    assert done.stderr.startswith(
        f"coinspace: endpoint port 127.0.0.1:{port}: expected a free port"
    )
    assert done.stderr.count("\n") == 1
