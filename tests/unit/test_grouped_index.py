"""Price groups in generated recordings: coverage, marks, and the same records again."""

from __future__ import annotations

from collections.abc import Iterator
from fractions import Fraction
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import Any

import msgspec
import orjson
import pytest
from numpy.typing import NDArray

from coinspace._ext.message import GROUPED, ORDERBOOK, Message
from coinspace._ext.sink import ListSink
from coinspace.collector.orderbook import OrderBookStage
from coinspace.collector.tools.offline import Replay
from coinspace.config import Settings
from coinspace.exchanges import exchange
from coinspace.method.record import IndexRecord
from coinspace.recompute.feeds import from_feeds
from coinspace.recording.format import FeedReader
from coinspace.simulator.simulated_feed import write_feeds
from tests.property.index_oracle import Rules, valuation

MARKETS = {
    "upbit": ["BTC/KRW", "USDT/KRW"],
    "bithumb": ["BTC/KRW", "USDT/KRW"],
    "binance": ["BTC/USDT"],
}
SECONDS = 6
# (price, size), best first
Side = list[tuple[Fraction, Fraction]]
NAMES = {
    True: {
        "kind": "ty",
        "code": "cd",
        "level": "lv",
        "units": "obu",
        "bid price": "bp",
        "bid size": "bs",
        "ask price": "ap",
        "ask size": "as",
    },
    False: {
        "kind": "type",
        "code": "code",
        "level": "level",
        "units": "orderbook_units",
        "bid price": "bid_price",
        "bid size": "bid_size",
        "ask price": "ask_price",
        "ask size": "ask_size",
    },
}


def made(folder: Path, *, groups: bool) -> list[Path]:
    path = folder / f"{'groups' if groups else 'fine'}.feed.zst"
    lines = write_feeds(path, 3, MARKETS, duration_s=SECONDS, groups=groups)
    return [Path(line["path"]) for line in lines]


def computed(paths: list[Path], settings: Settings | None = None) -> list[IndexRecord]:
    chosen = settings or Settings()
    found: list[IndexRecord] = []

    def take(record: IndexRecord, _: object) -> None:
        found.append(msgspec.structs.replace(record, latency_ns=None))

    from_feeds(tuple(paths), chosen, chosen.index.parameters_of, take)
    # the first second has books, but no groups yet
    return found[5:]


@pytest.fixture(scope="module")
def feeds(tmp_path_factory: pytest.TempPathFactory) -> dict[bool, list[Path]]:
    folder = tmp_path_factory.mktemp("groups")
    return {groups: made(folder, groups=groups) for groups in (False, True)}


def coverage(records: list[IndexRecord]) -> float:
    """Return the median coverage depth of the Korean venues."""
    depths = []
    for record in records:
        assert record.regions is not None
        depth = record.regions["KR"].coverage_depth
        assert depth is not None
        depths.append(depth)
    return median(depths)


def test_coverage_grows_tenfold_and_the_value_stays(feeds: dict[bool, list[Path]]) -> None:
    fine, grouped = (computed(feeds[groups]) for groups in (False, True))
    assert len(fine) == len(grouped) > 20
    assert coverage(grouped) >= 10 * coverage(fine)
    for one, other in zip(fine, grouped, strict=True):
        assert one.ts_ms == other.ts_ms
        assert other.value == pytest.approx(one.value, rel=2e-3)
    marks = {name: venue.grouped_from for name, venue in grouped[-1].venues.items()}
    assert marks["binance:BTC/USDT"] is None
    for name in ("upbit:BTC/KRW", "bithumb:BTC/KRW"):
        assert 0 < (marks[name] or 0) < 0.01
    assert all(venue.grouped_from is None for one in fine for venue in one.venues.values())


def test_a_recording_with_groups_gives_the_same_records_again(
    feeds: dict[bool, list[Path]],
) -> None:
    assert computed(feeds[True]) == computed(feeds[True])


def books(path: Path) -> list[Message]:
    """Return the published books of a recording of BTC/KRW."""
    sink = ListSink()
    with FeedReader(path) as reader:
        module = exchange(reader.exchange)
        depth = module.STREAM_DEPTH
        stage = OrderBookStage(module, [("KRW-BTC", "BTC/KRW")], sink, depth=depth)
        replay = Replay(stage)
        for record in reader:
            replay.feed(record)
    return [one for one in sink.messages if one.kind == ORDERBOOK]


def exact(side: NDArray[Any]) -> Side:
    return [(Fraction(price), Fraction(size)) for price, size in side.T.tolist()]


def frames(path: Path) -> Iterator[tuple[int, bool, Side, Side]]:
    """Yield receipt, whether these are groups, bids and asks of each book of BTC, exactly."""
    with FeedReader(path) as reader:
        single = 0 if reader.exchange == "upbit" else 1
        for record in reader:
            frame = orjson.loads(record.payload) if record.direction == "<" else {}
            names = NAMES["ty" in frame]
            if frame.get(names["kind"]) == "orderbook" and frame[names["code"]] == "KRW-BTC":
                bids, asks = (
                    [
                        (
                            Fraction(unit[names[f"{side} price"]]),
                            Fraction(unit[names[f"{side} size"]]),
                        )
                        for unit in frame[names["units"]]
                        if unit[names[f"{side} price"]] > 0 and unit[names[f"{side} size"]] > 0
                    ]
                    for side in ("bid", "ask")
                )
                yield record.received_ns, frame[names["level"]] > single, bids, asks


def merged(path: Path) -> Iterator[tuple[int, Side, Side]]:
    """Yield receipt and sides of each published book, by the rule in exact arithmetic."""
    groups: tuple[Side, Side] | None = None
    for received_ns, is_grouped, bids, asks in frames(path):
        if is_grouped:
            groups = bids, asks
        elif groups is None:
            yield received_ns, bids, asks
        else:
            yield received_ns, joined(bids, groups[0], -1), joined(asks, groups[1], 1)


def joined(fine: Side, groups: Side, sign: int) -> Side:
    """Return single levels with the groups that lie wholly beyond them. Args: sign: 1 for asks."""
    width = min(abs(b[0] - a[0]) for a, b in pairwise(groups))
    return fine + [one for one in groups if sign * (one[0] - fine[-1][0]) >= width]


@pytest.mark.parametrize("number", [0, 1])
def test_books_equal_those_of_exact_arithmetic(feeds: dict[bool, list[Path]], number: int) -> None:
    path = feeds[True][number]
    published = books(path)
    found = [(one.received_ns, exact(one.bids), exact(one.asks)) for one in published]
    assert found == list(merged(path))
    extended = [one for one in published if one.flags & GROUPED]
    assert len(extended) > 30
    assert all(0 < one.fine_bids < one.n_bids for one in extended)


def test_the_korean_value_equals_that_of_exact_arithmetic(feeds: dict[bool, list[Path]]) -> None:
    record = computed(feeds[True])[-1]
    assert record.regions is not None
    found = record.regions["KR"]
    latest = {
        path: [book for book in merged(path) if book[0] <= record.ts_ms * 1_000_000][-1]
        for path in feeds[True][:2]
    }
    upbit, bithumb = ((bids, asks) for _, bids, asks in latest.values())
    # names as in the ladder: equal prices are in the order of the venues
    expected = valuation({"upbit": upbit, "bithumb": bithumb}, Rules())
    assert found.curve_end == expected["curve_end"]
    for name in ("value_raw", "value_full", "utilised_depth", "coverage_depth", "size_cap"):
        assert getattr(found, name) == pytest.approx(float(expected[name]), rel=1e-9), name
