"""Recordings through replay server, collectors, bus and storage workers into a real database."""

import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path

import orjson
import pytest

from tests.flow.platform import Database, environment, query
from tests.waiting import free_port, wait_for

UPBIT_MARKETS = [
    "STX/KRW",
    "ANKR/KRW",
    "FLOW/BTC",
    "BASIC/BTC",
    "IQ/KRW",
    "ADA/USDT",
    "CHZ/BTC",
    "DAWN/KRW",
    "BAT/KRW",
    "ADA/KRW",
]


@contextmanager
def command(*arguments: str, env: dict[str, str], data: Path) -> Iterator[subprocess.Popen[bytes]]:
    name = "-".join(word for word in arguments if not word.startswith("/"))[:60]
    with (data / f"{name}.log").open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "coinspace", *arguments],
            env=env,
            cwd=data,
            stdout=subprocess.PIPE,
            stderr=log,
            start_new_session=True,
        )
        try:
            yield process
        finally:
            process.terminate()
            try:
                process.wait(60)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
            assert process.stdout is not None
            process.stdout.close()


def ready(data: Path, name: str) -> bool:
    path = data / "run" / f"{name}.json"
    return path.exists() and orjson.loads(path.read_bytes())["state"] == "ready"


def counter(data: Path, name: str, counted: str) -> int:
    health = orjson.loads((data / "run" / f"{name}.json").read_bytes())
    return sum(v for k, v in health["counters"].items() if k.partition("{")[0] == counted)


def stored(data: Path, table: str, market: str | None = None) -> int:
    where = f" where market = '{market}'" if market else ""
    try:
        return int(query(data, f"select count() from {table}{where}")[0][0])
    except Exception as error:
        if "does not exist" in str(error):
            return 0
        raise


def reached(data: Path, table: str, market: str | None, count: int) -> bool:
    return stored(data, table, market) >= count


@pytest.mark.timeout(600)
@pytest.mark.parametrize(
    ("exchange", "files", "markets", "expected"),
    [
        (
            "upbit",
            ["upbit-9-codes-20210405"],
            UPBIT_MARKETS,
            {("orderbook", None): 1061, ("trade", None): 672},
        ),
        (
            "binance",
            ["binance-btcusdt-20240808", "binance-ethusdt-20240808"],
            ["BTC/USDT", "ETH/USDT"],
            {
                ("orderbook", "BTC/USDT"): 3449,
                ("orderbook", "ETH/USDT"): 3432,
                ("trade", "BTC/USDT"): 9757,
                ("trade", "ETH/USDT"): 6106,
            },
        ),
    ],
)
def test_every_recorded_update_is_one_row(
    tmp_path: Path,
    feeds: Path,
    exchange: str,
    files: list[str],
    markets: list[str],
    expected: dict[tuple[str, str | None], int],
) -> None:
    env = environment(tmp_path, free_port()) | {
        "COINSPACE_STORAGE__TTL": "off",
        f"COINSPACE_EXCHANGES__{exchange.upper()}__MARKETS": orjson.dumps(markets).decode(),
    }
    paths = [str(feeds / f"{name}.feed.zst") for name in files]
    collectors = (f"orderbook-collector-{exchange}", f"ticker-collector-{exchange}")
    workers = ("orderbook-storage-worker", "ticker-storage-worker")
    with ExitStack() as stack:
        stack.enter_context(Database(tmp_path))
        replay = stack.enter_context(
            command("replay", *paths, "--speed", "20", env=env, data=tmp_path)
        )
        assert replay.stdout is not None
        urls = orjson.loads(replay.stdout.readline())["exchanges"][exchange]
        for key, url in urls.items():
            env[f"COINSPACE_EXCHANGES__{exchange.upper()}__{key.upper()}"] = url
        for worker in workers:
            stack.enter_context(command(worker, env=env, data=tmp_path))
        for worker in workers:
            wait_for(partial(ready, tmp_path, worker), f"{worker} to be ready")
        for collector in collectors:
            kind = collector.removesuffix(f"-{exchange}")
            stack.enter_context(command(kind, exchange, env=env, data=tmp_path))
        for (table, market), count in expected.items():
            wait_for(
                partial(reached, tmp_path, table, market, count),
                f"{count} rows of {market or 'every market'} in {table}",
                limit_s=120,
            )
        for name in (*collectors, *workers):
            assert counter(tmp_path, name, "dropped") == 0
            assert counter(tmp_path, name, "malformed") == 0
        found = {(table, market): stored(tmp_path, table, market) for table, market in expected}
    assert found == expected
