"""The curve of a past tick, from real records and books in a real QuestDB."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import aiohttp
import numpy as np
import orjson
import pytest
import pytest_asyncio

from coinspace.aggregator.consolidate import Consolidator
from coinspace.aggregator.venue import Venue
from coinspace.config import Settings, StorageSettings
from coinspace.index.calculator import Index
from coinspace.index.governance import definition
from coinspace.index.store import store
from coinspace.market import Market
from coinspace.method.aggregate import FxFacts
from coinspace.method.digits import significant
from coinspace.storage import schema
from coinspace.storage.questdb.address import address
from coinspace.storage.records import Row, tick_row, venue_rows
from tests.flow.endpoint_stage import running, settings
from tests.waiting import until

# an asset and times of our own on the shared server
ASSET = "CRV"
START_MS = 1_767_312_000_000
VENUES = (
    ("binance", "CRV/USDT", 1.0),
    ("bithumb", "CRV/KRW", 1400.0),
    ("upbit", "CRV/KRW", 1400.0),
)
STORED_LEVELS = 30
Site = tuple[Settings, aiohttp.ClientSession]


def configured(stored: Settings, folder: Path) -> Settings:
    chosen = settings(folder)
    chosen.index.assets = [ASSET]
    for exchange, market, _ in VENUES:
        # and the market that the stage publishes
        chosen.exchanges[exchange].markets = [market, "BTC/KRW"]
    found = address(stored)
    chosen.storage.ilp, chosen.storage.sql = found.ilp, found.sql
    chosen.storage.readonly_sql = found.readonly_sql
    return chosen


def sides(exchange: str, rate: float, levels: int) -> list[np.ndarray[Any, Any]]:
    """Bids and asks that differ from venue to venue, in the venue's own currency."""
    rng = np.random.default_rng(len(exchange))
    steps = np.cumsum(rng.uniform(0.5, 1.5, (2, levels)), axis=1)
    middle = 5000.0 + len(exchange)
    sizes = rng.exponential(0.2, (2, levels)) + 0.01
    return [
        np.array([np.round((middle + sign * steps[side]) * rate, 4), np.round(sizes[side], 6)])
        for side, sign in enumerate((-1, 1))
    ]


def store_tick(chosen: Settings, number: int, levels: int = STORED_LEVELS) -> Any:
    """Compute a tick over books of so many levels and store what the platform stores of it."""
    ts_ns = (START_MS + number * 1000) * 1_000_000
    index = Index(ASSET, chosen.index.parameters_of(ASSET), chosen.depths)
    venues = []
    with schema.connect(address(chosen)) as connection:
        for exchange, market, rate in VENUES:
            venue = Venue(exchange, Market.parse(market), state="synced")
            bids, asks = sides(exchange, rate, levels if exchange == "binance" else STORED_LEVELS)
            venue.on_book(bids, asks, ts_ns - 300_000_000)
            # an identical repeat shows that the market lives and is not stored again
            venue.on_book(bids, asks, ts_ns - 50_000_000)
            venues.append(venue)
            cut_bids, cut_asks = bids[:, :STORED_LEVELS], asks[:, :STORED_LEVELS]
            connection.execute(
                b"INSERT INTO orderbook (exchange, market, bids, asks, n_bids, n_asks, epoch, seq,"
                b" ts) VALUES (%s, %s, %s::double[][], %s::double[][], %s, %s, 1, %s, %s)",
                (
                    exchange,
                    market,
                    _array(cut_bids),
                    _array(cut_asks),
                    bids.shape[1],
                    asks.shape[1],
                    number,
                    ts_ns - 300_000_000,
                ),
            )
    aggregate = Consolidator(ASSET).consolidate(
        ts_ns, venues, FxFacts(rate=1400.0, status="ok"), 10_000_000_000
    )
    record = index.compute(aggregate)
    assert record.value is not None
    store(chosen, [tick_row(record), *venue_rows(record, fx=False)])
    return record


def _array(levels: np.ndarray[Any, Any]) -> str:
    return "{" + ",".join("{" + ",".join(map(repr, row)) + "}" for row in levels.tolist()) + "}"


@pytest_asyncio.fixture
async def site(questdb: Settings, tmp_path: Path) -> AsyncIterator[Site]:
    schema.create(address(questdb), StorageSettings(ttl="off"))
    chosen = configured(questdb, tmp_path)
    async with (
        running(chosen) as (_, endpoint),
        aiohttp.ClientSession(endpoint.server.url) as session,
    ):
        yield chosen, session


async def explain(
    session: aiohttp.ClientSession, record: Any, visible: Callable[[dict[str, Any]], bool]
) -> dict[str, Any]:
    """Ask until what was stored is visible: each row becomes visible on its own."""
    path = f"/v1/indices/{ASSET}/explain?ts={record.ts_ms}"
    body: dict[str, Any] = {}

    async def complete() -> bool:
        nonlocal body
        async with session.get(path) as answer:
            body = await answer.json(content_type=None)
        stored = answer.status == 200 and body["index"]["ts"] == record.ts_ms
        return stored and len(body["used"]) == len(VENUES) and visible(body)

    await until(complete, path, shown=lambda: body)
    return body


def has_curve(body: dict[str, Any]) -> bool:
    return body["curve"] is not None


async def test_completely_stored_books_give_the_same_curve(site: Site) -> None:
    record = store_tick(site[0], 0)
    body = await explain(site[1], record, has_curve)
    assert body["curve_reason"] is None, body
    curve = body["curve"]
    assert (curve["source"], curve["levels_missing"]) == ("stored_books", 0)
    assert float(curve["value"]) == significant(record.value_raw)
    assert float(curve["difference"]) == 0
    assert sum(float(one["weight"]) for one in curve["segments"]) == pytest.approx(1)
    weighted = [one for one in curve["segments"] if float(one["weight"]) > 0]
    assert float(weighted[-1]["end"]) == pytest.approx(record.utilised_depth)
    assert {one["venue"] for one in curve["bids"]} == {f"{e}:{m}" for e, m, _ in VENUES}
    assert float(curve["asks"][0]["price"]) == significant(record.best_ask)


async def test_levels_that_are_not_stored_are_counted_and_their_effect_shown(site: Site) -> None:
    record = store_tick(site[0], 1, levels=400)
    curve = (await explain(site[1], record, has_curve))["curve"]
    assert curve["levels_missing"] == 2 * (400 - STORED_LEVELS)
    expected = float(curve["value"]) / record.value_raw - 1
    assert float(curve["difference"]) == pytest.approx(expected, abs=1e-8)
    # another size cap and coverage: close, but not equal
    assert 0 < abs(expected) < 1e-2


async def test_a_book_that_is_not_stored_is_named(site: Site) -> None:
    record = store_tick(site[0], 2)
    for venue in record.inputs:
        # as if the book had changed once more after the stored row
        record.inputs[venue].changed_ns += 100_000_000
    store(site[0], list(venue_rows(record, fx=False)))
    await explain(
        site[1],
        record,
        lambda body: "binance:CRV/USDT at that tick is not stored" in (body["curve_reason"] or ""),
    )


async def test_the_parameters_of_the_tick_are_used_not_todays(site: Site) -> None:
    chosen, session = site
    before = chosen.model_copy(deep=True)
    before.index.overrides = {ASSET: {"max_spread": 0.002, "depth": "full"}}
    record = store_tick(before, 3)
    await explain(
        session, record, lambda body: record.parameter_hash in (body["curve_reason"] or "")
    )
    announced = definition(before, ASSET)
    columns = {"method_version": 1, "definition": orjson.dumps(announced).decode()}
    symbols = {"asset": ASSET, "role": "live", "parameter_hash": record.parameter_hash}
    store(before, [Row("methodology", START_MS * 10**6, symbols, columns)])
    body = await explain(session, record, has_curve)
    assert float(body["curve"]["value"]) == significant(record.value_raw)
