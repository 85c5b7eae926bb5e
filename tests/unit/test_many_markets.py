"""Requests for many markets of whole exchanges: they cost no more than what they may have."""

from __future__ import annotations

import asyncio
from collections import deque
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from coinspace.clock import now_ns
from coinspace.config import Settings
from coinspace.endpoint.context import Context
from coinspace.endpoint.history.methodology import described
from coinspace.endpoint.http.problem import Problem
from coinspace.endpoint.live.channels import CHANNELS_LIMIT, StreamQuery, channels
from coinspace.endpoint.live.hub import Hub
from coinspace.endpoint.live.state import Live
from coinspace.endpoint.routes import streams
from coinspace.endpoint.routes.market import newest_trades
from coinspace.storage.read.pool import Database

MARKETS = 1500


class Counting(Context):
    """Counts how often all markets of an exchange are listed, and which are followed."""

    listed = 0

    def markets(self, exchange: str) -> list[str]:
        self.listed += 1
        return super().markets(exchange)


def whole(tmp_path: Path, count: int = MARKETS) -> Counting:
    settings = Settings(data=tmp_path)
    for name in settings.exchanges:
        settings.exchanges[name].markets = ["BTC/KRW"]
    settings.exchanges["upbit"].markets = [f"A{n}/KRW" for n in range(count)]
    hub = Hub(max_streams=1, stall_s=1, resume_s=1, boot="x")
    database = Database(lambda: "", size=1, timeout_s=1)
    return Counting(settings, Live(settings=settings), hub, database, now_ns, tmp_path)


@pytest.mark.parametrize("text", ["*", ",".join("*" * 2000), ", *,".join("*" * 900)])
def test_all_markets_of_whole_exchanges_are_refused_before_they_are_looked_at(
    text: str, tmp_path: Path
) -> None:
    context = whole(tmp_path)
    followed: list[Any] = []
    context.follow = lambda *market: followed.append(market)
    with pytest.raises(Problem, match=f"expected at most {CHANNELS_LIMIT} channels"):
        channels(context, StreamQuery(tickers=text, trades=text))
    assert context.listed <= len(context.settings.exchanges)
    assert not followed


def test_many_named_markets_are_found_without_listing_all(tmp_path: Path) -> None:
    context = whole(tmp_path)
    names = [f"upbit:A{n}/KRW" for n in range(240)]
    context.live.states["upbit", "B/KRW"] = context.live.states.get(("upbit", "B/KRW"))  # type: ignore[assignment]
    text = ",".join(["upbit:B/KRW", *names, *names])
    found = channels(context, StreamQuery(tickers=text[:4000].rpartition(",")[0]))
    assert {"ticker.upbit:B/KRW", "ticker.upbit:A239/KRW"} <= found
    # the names that `*` would stand for
    assert context.listed <= len(context.settings.exchanges)
    with pytest.raises(Problem, match="expected one of A0/KRW"):
        channels(context, StreamQuery(tickers="upbit:NONE/KRW"))


def test_all_markets_of_a_few_are_channels(tmp_path: Path) -> None:
    context = whole(tmp_path, 200)
    found = channels(context, StreamQuery(tickers="*,*, *", trades="*"))
    # the other exchanges have one market each
    assert len(found) == 2 * (200 + len(context.settings.exchanges) - 1)


async def test_a_message_that_names_too_many_channels_is_refused_at_once(tmp_path: Path) -> None:
    context = whole(tmp_path)
    message = b'{"op":"subscribe","channels":[%b]}' % b",".join([b'"ticker.upbit:A1/KRW"'] * 501)
    client: Any = None
    with pytest.raises(Problem, match="expected at most 500 channels, was 501"):
        await streams._run(context, {}, client, message)
    assert context.listed == 0


async def test_the_first_states_of_many_channels_let_others_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Books of all assets of whole exchanges take hundreds of milliseconds."""
    context = whole(tmp_path, 1)
    now = 0.0
    sent: list[str] = []
    others: list[int] = []

    def state(context: Context, name: str) -> bytes:
        nonlocal now
        # what a book costs
        now += 0.002
        return b"{}"

    async def other() -> None:
        while len(sent) < 250:
            others.append(len(sent))
            await asyncio.sleep(0)

    monkeypatch.setattr(streams, "state", state)
    monkeypatch.setattr(streams, "time", SimpleNamespace(monotonic=lambda: now))
    client: Any = SimpleNamespace(send=lambda event: sent.append(event.channel))
    names = {f"book.A{n}" for n in range(250)}
    await asyncio.gather(other(), streams.begin(context, client, names, None))
    assert sent == sorted(names)
    assert max(after - before for before, after in pairwise([*others, 250])) * 0.002 < 0.05


def test_the_newest_trades_of_all_markets_cost_what_is_shown() -> None:
    looked = 0

    class Trade(SimpleNamespace):
        @property
        def received_ns(self) -> int:
            nonlocal looked
            looked += 1
            return int(self.arrived)

    markets = [
        deque(Trade(arrived=10 * n + m, exchange_ns=10 * n, id=m) for n in range(1000))
        for m in range(10)
    ]
    # one without the exchange's time, and one that REST filled in late
    markets[3][-1].exchange_ns = 0
    markets[4][-1].exchange_ns = 17
    found = newest_trades(markets, 8)  # type: ignore[arg-type]
    assert [one.id for one in found] == [1, 2, 5, 6, 7, 8, 9, 3]
    assert looked < 200
    assert newest_trades([], 5) == []


async def test_the_methodology_of_many_assets_lists_the_markets_once(tmp_path: Path) -> None:
    context = whole(tmp_path, 300)
    context.settings.index.assets = [f"A{n}" for n in range(250)]
    turns = 0

    async def other() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    beside = asyncio.create_task(other())
    found = await described(context)
    beside.cancel()
    assert len(found.definitions) == 250
    assert context.listed == len(context.settings.exchanges)
    # the other task ran between two assets
    assert turns >= 250
