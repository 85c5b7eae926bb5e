"""Recordings of simulated exchanges through `compute-index`: the same records every time."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from coinspace.aggregator.venue import Input
from coinspace.clock import SECOND_NS
from coinspace.config import Settings
from coinspace.errors import CoinSpaceError
from coinspace.method.record import IndexRecord
from coinspace.recompute.commands import compute_index, verify_index
from coinspace.recompute.feeds import sources
from coinspace.recompute.offline import FeedReplay
from coinspace.simulator.markets.engine import START_NS
from coinspace.simulator.simulated_feed import write_feeds

MARKETS = {
    "upbit": ["BTC/KRW", "USDT/KRW"],
    "bithumb": ["BTC/KRW", "USDT/KRW"],
    "binance": ["BTC/USDT"],
}
SECONDS = 6
TICKS = SECONDS * 5
STEP_NS = SECOND_NS // 5


def record(folder: Path, seed: int) -> list[str]:
    feeds = write_feeds(folder / f"{seed}.feed.zst", seed, MARKETS, duration_s=SECONDS)
    return [one["path"] for one in feeds]


@pytest.fixture(scope="module")
def feeds(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    return record(tmp_path_factory.mktemp("replay"), 3)


def run(*arguments: str) -> list[dict[str, Any]]:
    result = CliRunner().invoke(compute_index, arguments)
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    assert result.exit_code == 0, result.output
    return [json.loads(line) for line in result.stdout.splitlines()]


def test_two_replays_give_the_same_hash(feeds: list[str], tmp_path: Path) -> None:
    first, second = run(*feeds, "--hash"), run(*feeds, "--hash")
    assert first == second
    assert TICKS - 1 <= first[0]["records"] <= TICKS + 1
    # the hash covers content, not only the count: other prices, another parameter
    assert run(*record(tmp_path, 4), "--hash") != first
    assert run(*feeds, "--hash", "--max-spread", "0.004") != first


def test_patterns_give_the_records_of_the_markets_by_name(
    feeds: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = run(*feeds, "--hash")
    path = tmp_path / "patterns.toml"
    path.write_text(
        "[exchanges.upbit]\nmarkets = ['*/KRW']\n[exchanges.bithumb]\nmarkets = ['*']\n"
        "[exchanges.binance]\nmarkets = ['BTC/*', '*/USDC']\n"
    )
    assert run(*feeds, "--hash", "--config", str(path)) == expected


@pytest.mark.parametrize("interval", [0, 1000])
def test_any_interval_is_reproducible(
    feeds: list[str], interval: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COINSPACE_INDEX__INTERVAL_MS", str(interval))
    first, second = run(*feeds, "--hash"), run(*feeds, "--hash")
    assert first == second
    # at each update, or once a second
    if interval:
        assert SECONDS <= first[0]["records"] <= SECONDS + 1
    else:
        assert first[0]["records"] > 2 * TICKS


def test_verification_needs_a_grid(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COINSPACE_INDEX__INTERVAL_MS", "0")
    arguments = ("--feeds", str(tmp_path), "--from", "0", "--to", "1000")
    result = CliRunner().invoke(verify_index, arguments)
    assert isinstance(result.exception, CoinSpaceError)
    assert "interval of the ticks to verify, was 0" in str(result.exception)


def test_every_tick_once_and_in_order(feeds: list[str]) -> None:
    records = run(*feeds)
    stamps = [one["ts_ms"] for one in records]
    assert stamps == list(range(stamps[0], stamps[0] + 200 * len(stamps), 200))
    assert stamps[0] * 1_000_000 <= START_NS + 200_000_000
    good = [one for one in records if one["value"] is not None]
    assert len(good) >= TICKS - 5
    for one in good:
        assert sum(venue["share"] for venue in one["venues"].values()) == pytest.approx(1)
        # each record names its messages, which were received before the tick
        assert one["inputs"].keys() == {*one["venues"], *one["fx_venues"]}
        for source in one["inputs"].values():
            assert 0 < source["received_ns"] <= one["ts_ms"] * 1_000_000
            assert source["sequence"] > 0


def test_a_tick_is_explained_level_by_level(feeds: list[str]) -> None:
    wanted = run(*feeds)[20]
    (explained,) = run(*feeds, "--explain", str(wanted["ts_ms"]))
    curve, bids, asks = (explained.pop(name) for name in ("curve", "bids", "asks"))
    assert explained == wanted
    assert sum(row["weight"] for row in curve) == pytest.approx(1)
    weighted = sum(row["weight"] * (row["mid"] - curve[0]["mid"]) for row in curve)
    assert curve[0]["mid"] + weighted == pytest.approx(wanted["value_raw"], rel=1e-12)
    assert bids[0]["price"] == wanted["best_bid"]
    assert asks[0]["price"] == wanted["best_ask"]
    for side in (bids, asks):
        assert all(row["capped"] == min(row["size"], wanted["size_cap"]) for row in side)
        assert {row["venue"] for row in side} == set(wanted["venues"])


def test_a_tick_without_a_value_has_no_curve(feeds: list[str], tmp_path: Path) -> None:
    lines = []
    for number, venues in enumerate((2, 1)):
        books = [
            {
                "exchange": name,
                "market": "BTC/USDT",
                "recv_ms": 1000 + number,
                "bids": [[99, 1]],
                "asks": [[101, 1]],
            }
            for name in ("binance", "other")[:venues]
        ]
        lines.append(json.dumps({"now_ms": 1000 + number, "asset": "BTC", "books": books}))
    path = tmp_path / "books.jsonl"
    path.write_text("\n".join(lines))
    arguments = ("--snapshots", str(path), "--regions", "off", "--max-spread", "0.02")
    (with_value,) = run(*arguments, "--explain", "1000")
    assert with_value["value"] == 100
    assert len(with_value["bids"]) == 2
    (without,) = run(*arguments, "--explain", "1001")
    assert without["reason"] == "too_few_venues"
    # nor the curve of the tick before
    assert (without["curve"], without["bids"], without["asks"]) == ([], [], [])
    with pytest.raises(CoinSpaceError, match="expected a tick at 1002 ms"):
        run(*arguments, "--explain", "1002")


def test_parameters_reach_the_venues_and_the_rate(feeds: list[str], tmp_path: Path) -> None:
    # the aggregator, which judges venues, sees the same parameters
    records = run(*feeds, "--lag-ms", "12")
    reasons = {venue["reason"] for one in records for venue in one["venues"].values()}
    assert "delayed" in reasons
    assert {venue["reason"] for one in records[2:] for venue in one["fx_venues"].values()} >= {
        "delayed"
    }
    path = tmp_path / "params.toml"
    path.write_text("lag_ms = 12\nfx_hold_s = 0\nmode = 'grid'\nspacing = 0.01\n")
    assert "held" in {one["fx_status"] for one in records}
    records = run(*feeds, "--params", str(path))
    assert {one["fx_status"] for one in records} == {"ok", "none"}
    # an option overrides the file
    fresh = run(*feeds, "--params", str(path), "--lag-ms", "10000")
    assert {venue["reason"] for venue in fresh[-1]["venues"].values()} == {None}
    assert fresh[-1]["utilised_depth"] == pytest.approx(round(fresh[-1]["utilised_depth"], 2))


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("max_spred = 1", "did you mean 'max_spread'"),
        ("max_spread = 7", "less than 1"),
        ("max_spread", "expected parameters as TOML or JSON"),
    ],
)
def test_bad_parameters_are_named(tmp_path: Path, text: str, words: str) -> None:
    path = tmp_path / "params.toml"
    path.write_text(text)
    with pytest.raises(CoinSpaceError, match=words):
        run("--snapshots", "-", "--params", str(path))


class Guide:
    """Stored records in which the ticks of a range were not computed."""

    def __init__(self, first_ms: int, last_ms: int) -> None:
        self._missed = range(first_ms * 1_000_000, last_ms * 1_000_000 + 1)

    def inputs(self, ts_ns: int) -> dict[str, Input]:
        return {}

    def missed(self, asset: str, ts_ns: int) -> bool:
        return ts_ns in self._missed


class Restarted(Guide):
    """The aggregator was down in the range; its first tick came before the first books."""

    def inputs(self, ts_ns: int) -> dict[str, Input]:
        first_ns = self._missed.stop - 1 + STEP_NS
        if ts_ns < first_ns:
            return {}
        given = Input(0, "delayed") if ts_ns == first_ns else Input(ts_ns, None)
        names = [f"{name}:{market}" for name, markets in MARKETS.items() for market in markets]
        return dict.fromkeys(names, given)


def test_a_restarted_aggregator_goes_on_with_the_rate_that_it_had(
    feeds: list[str], tmp_path: Path
) -> None:
    settings = Settings(data=tmp_path)
    settings.index.assets = ["BTC"]
    first_ms, last_ms = START_NS // 1_000_000 + 3_000, START_NS // 1_000_000 + 4_000
    found: dict[float, IndexRecord] = {}
    readers, make = sources(tuple(map(Path, feeds)), settings)
    replay = FeedReplay(
        settings,
        make,
        settings.index.parameters_of,
        lambda record, _: found.update({record.ts_ms: record}),
        guide=Restarted(first_ms, last_ms),
    )
    replay.run(readers)
    before, after = found[first_ms - 200], found[last_ms + 200]
    assert (before.fx_status, after.fx_status) == ("ok", "held")
    assert after.fx == before.fx
    # the books of the rate have changed since
    assert {one.fx for ts, one in found.items() if ts > last_ms + 200} != {before.fx}


def test_a_missed_tick_is_missed_again(tmp_path: Path) -> None:
    # two recordings of one connection with an hour between them
    paths: list[Path] = []
    for part, start_ns in enumerate((START_NS, START_NS + 3600 * SECOND_NS)):
        target = tmp_path / f"part{part}.feed.zst"
        feeds = write_feeds(target, 3, MARKETS, duration_s=SECONDS, start_ns=start_ns)
        paths += [Path(one["path"]) for one in feeds]
    settings = Settings(data=tmp_path)
    settings.index.assets = ["BTC"]
    start_ms = START_NS // 1_000_000
    first_ms, last_ms = start_ms + 3_000, start_ms + 3_601_000
    found: list[IndexRecord] = []
    readers, make = sources(tuple(paths), settings, segments=True)
    replay = FeedReplay(
        settings,
        make,
        settings.index.parameters_of,
        lambda record, _: found.append(record),
        guide=Guide(first_ms, last_ms),
    )
    replay.run(readers)
    begun_ms = int(found[0].ts_ms)
    assert [one.ts_ms for one in found] == list(range(begun_ms, begun_ms + 200 * len(found), 200))
    for one in found:
        assert (one.reason == "not_computed") is (first_ms <= one.ts_ms <= last_ms)
    # earlier ticks are computed, from the first books on
    before = [one for one in found if one.ts_ms < first_ms]
    assert [one.kr is not None for one in before] == [False] + [True] * (len(before) - 1)
    # so are later ones: the second recording goes on with the books of the same collector
    after = [one for one in found if one.ts_ms > last_ms]
    assert after[-1].kr is not None
    # without stored records, a pause of the recordings is skipped
    found.clear()
    readers, make = sources(tuple(paths), settings, segments=True)
    replay = FeedReplay(
        settings, make, settings.index.parameters_of, lambda record, _: found.append(record)
    )
    replay.run(readers)
    assert replay.pauses == 1
    assert len(found) < 3 * TICKS


def test_an_asset_that_was_listed_later_has_no_ticks_before(
    feeds: list[str], tmp_path: Path
) -> None:
    settings = Settings(data=tmp_path)
    settings.index.assets = ["BTC", "ETH"]
    since_ns = START_NS + 4 * SECOND_NS
    found: list[IndexRecord] = []
    readers, make = sources(tuple(map(Path, feeds)), settings)
    first_ms = since_ns // 1_000_000 - 1000
    FeedReplay(
        settings,
        make,
        settings.index.parameters_of,
        lambda record, _: found.append(record),
        # it was not computed either while the calculator was down
        guide=Guide(first_ms, first_ms + 600),
        since={"ETH": since_ns},
    ).run(readers)
    times = {asset: [one.ts_ms for one in found if one.asset == asset] for asset in ("BTC", "ETH")}
    assert min(times["ETH"]) == since_ns // 1_000_000
    assert min(times["BTC"]) < first_ms
