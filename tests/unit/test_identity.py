"""The dated registry decides what the aggregator sums, and in which units."""

import numpy as np
import pytest

from coinspace._ext.message import ORDERBOOK
from coinspace._ext.sink import ListSink
from coinspace.aggregator.stage import OrderbookAggregator
from coinspace.clock import SECOND_NS
from coinspace.config import load
from coinspace.exchanges.exchange import Identity, day_ns
from coinspace.exchanges.identity import assets_of, identity
from coinspace.method.aggregate import Aggregate

DAY = day_ns("2026-01-01")


def aggregates(
    assets: list[str], books: dict[tuple[str, str], tuple[float, float]], at_ns: int = DAY
) -> dict[str, Aggregate]:
    """Return the aggregates of one tick over (exchange, market) -> (bid, size)."""
    settings = load()
    settings.index.assets = assets
    settings.index.constituents = ["*:*/*"]
    for exchange, section in settings.exchanges.items():
        section.markets = [market for where, market in books if where == exchange] or ["X/USDT"]
    found: dict[str, Aggregate] = {}
    aggregator = OrderbookAggregator(
        settings, on_aggregate=lambda one: found.update({one.asset: one}), heartbeats=False
    )
    sink = ListSink()
    for (exchange, market), (bid, size) in books.items():
        sink.publish(
            sink.topic(f"orderbook.{exchange}.{market}.".encode()),
            ORDERBOOK,
            np.array([bid, size, bid * 1.001, size]),
            n_bids=1,
            n_asks=1,
            received_ns=at_ns,
        )
    for message in sink.messages:
        aggregator.on_message(message)
    aggregator.tick(at_ns + SECOND_NS // 5)
    return found


def names(aggregate: Aggregate) -> list[str]:
    return [venue.name for venue in aggregate.venues]


def test_the_same_name_of_another_asset_is_not_summed() -> None:
    books = {("binance", "TON/USDT"): (3.0, 10.0), ("upbit", "TON/USDT"): (900.0, 10.0)}
    found = aggregates(["TON", "TOKAMAK"], books)
    assert names(found["TON"]) == ["binance:TON/USDT"]
    assert names(found["TOKAMAK"]) == ["upbit:TON/USDT"]


def test_a_name_that_means_many_units_is_summed_in_units_of_its_asset() -> None:
    found = aggregates(["SATS"], {("binance", "1000SATS/USDT"): (0.25, 8.0)})
    (venue,) = found["SATS"].venues
    assert venue.bid == pytest.approx(0.00025, rel=1e-12)
    assert venue.reason is None


def test_the_day_decides_what_a_name_means() -> None:
    books = {("binance", "LUNA/USDT"): (80.0, 1.0)}
    before = aggregates(["LUNA", "LUNC"], books, day_ns("2022-05-27"))
    assert (names(before["LUNC"]), names(before["LUNA"])) == (["binance:LUNA/USDT"], [])
    after = aggregates(["LUNA", "LUNC"], books, day_ns("2022-05-29"))
    assert (names(after["LUNC"]), names(after["LUNA"])) == ([], ["binance:LUNA/USDT"])


def test_an_asset_that_is_redenominated_at_midnight_keeps_its_price(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # from that day on, a thousand old units are one
    registry = (Identity("upbit", "ABC", "ABC", 1000.0, DAY),)
    monkeypatch.setattr("coinspace.exchanges.identity.declared", lambda: registry)
    for at_ns, price, size in ((DAY - SECOND_NS, 0.25, 8000.0), (DAY, 250.0, 8.0)):
        books = {("upbit", "ABC/USDT"): (price, size), ("binance", "ABC/USDT"): (0.25, 100.0)}
        first, second = aggregates(["ABC"], books, at_ns)["ABC"].venues
        assert (first.name, second.name) == ("binance:ABC/USDT", "upbit:ABC/USDT")
        assert first.bid == second.bid == pytest.approx(0.25, rel=1e-12)


def test_an_entry_of_the_exchange_comes_before_one_for_all(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    registry = (Identity("*", "A", "B"), Identity("upbit", "A", "C", to_ns=100))
    monkeypatch.setattr("coinspace.exchanges.identity.declared", lambda: registry)
    assert identity("upbit", "A", 50).asset == "C"
    assert identity("upbit", "A", 100).asset == "B"
    assert assets_of("upbit", "A") == ("B", "C")
    assert assets_of("binance", "A") == ("B",)
    assert assets_of("binance", "Z") == ("Z",)
