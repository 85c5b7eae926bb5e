"""Rules of alerts in virtual time: what begins an alert, what ends it, and what does neither."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import orjson
import pytest

from coinspace._ext import message as m
from coinspace._ext.message import Message, encode_header
from coinspace.alerts.check import check, problems
from coinspace.alerts.rules import (
    LOST_NS,
    MOST_ALERTS,
    Event,
    Lost,
    Moment,
    Record,
    Rules,
    Standing,
)
from coinspace.alerts.samples import LEAST, Samples
from coinspace.alerts.venues import SILENT_NS, Venues
from coinspace.alerts.worker import NAME, Alerter
from coinspace.clock import SECOND_NS, now_ns
from coinspace.config import Settings, load
from coinspace.config_alerts import AlertRule
from coinspace.errors import ConfigError
from coinspace.method.record import PremiumRecord
from coinspace.observe.health import Health
from coinspace.process import Process
from coinspace.storage.read import history

WALL_MS = 1_800_000_000_000


class Stage:
    """Rules, and a clock that only the test moves."""

    def __init__(self, data: Path, assets: tuple[str, ...] = ("BTC",), **rules: dict[str, Any]):
        self.settings = Settings(data=data)
        self.settings.index.assets = list(assets)
        self.settings.alerts.rules = {
            name.replace("_", "-"): AlertRule(**rule) for name, rule in rules.items()
        }
        self.events: list[Event] = []
        self.now_s = 1000.0
        self.rules = Rules(self.settings, self.events.append, self.at())

    def at(self) -> Moment:
        return Moment(int(self.now_s * SECOND_NS), WALL_MS + int(self.now_s * 1000))

    def record(
        self, premium: float | None, after_s: float = 1.0, asset: str = "BTC", **more: Any
    ) -> list[str]:
        """Apply a record some time later. Returns: what it reported."""
        self.now_s += after_s
        at = self.at()
        parts = None if premium is None else PremiumRecord(premium, premium, None)
        facts = {"value": 1.0, "premium": premium, "premium_parts": parts, **more}
        self.rules.on_record(Record(asset, at.wall_ms, **facts), at)
        return self.taken()

    def check(
        self,
        after_s: float = 1.0,
        venues: Mapping[str, str | None] | None = None,
        healths: tuple[Health, ...] = (),
        free_mb: int | None = None,
    ) -> list[str]:
        self.now_s += after_s
        self.rules.check(self.at(), venues or {}, healths, free_mb)
        return self.taken()

    def taken(self) -> list[str]:
        found = [f"{one.state} {one.rule} {one.subject}" for one in self.events]
        self.events.clear()
        return found


def premium(**rule: Any) -> dict[str, Any]:
    return {"kind": "premium", **rule}


def test_an_alert_begins_after_its_time_and_ends_beyond_the_hysteresis(tmp_path: Path) -> None:
    stage = Stage(tmp_path, high=premium(over=0.05, hysteresis=0.01, for_s=3))
    assert [stage.record(0.051) for _ in range(4)] == [[], [], [], ["raised high BTC"]]
    # in between, at the level itself, and at the end of the hysteresis
    assert stage.record(0.049) == []
    assert stage.record(0.0401) == []
    assert stage.record(0.04) == ["cleared high BTC"]
    assert stage.record(0.05) == []


@pytest.mark.parametrize(
    ("rule", "beyond", "within"),
    [
        ({"over": 0.0}, 1e-9, 0.0),
        ({"under": -0.02}, -0.0200001, -0.02),
        ({"under": 0.02, "basis": "fiat"}, 0.01, 0.02),
    ],
)
def test_the_level_itself_is_not_beyond(
    tmp_path: Path, rule: dict[str, Any], beyond: float, within: float
) -> None:
    stage = Stage(tmp_path, one=premium(**rule, for_s=0))
    assert stage.record(within) == []
    assert stage.record(beyond) == ["raised one BTC"]
    assert stage.record(within) == ["cleared one BTC"]


@pytest.mark.parametrize("interruption", [0.01, None])
def test_a_condition_that_is_interrupted_begins_anew(
    tmp_path: Path, interruption: float | None
) -> None:
    stage = Stage(tmp_path, high=premium(over=0.05, for_s=3))
    stage.record(0.06)
    stage.record(interruption, after_s=2)
    assert [stage.record(0.06) for _ in range(4)] == [[], [], [], ["raised high BTC"]]


def test_a_pause_without_records_shows_nothing(tmp_path: Path) -> None:
    stage = Stage(tmp_path, high=premium(over=0.05, for_s=8))
    stage.record(0.06)
    assert stage.check(after_s=30) == []
    assert stage.record(0.06) == []
    assert stage.record(0.06, after_s=4) == []
    assert stage.record(0.06, after_s=4) == ["raised high BTC"]


def test_an_unknown_premium_ends_no_alert(tmp_path: Path) -> None:
    stage = Stage(tmp_path, high=premium(over=0.05, for_s=0))
    assert stage.record(0.06) == ["raised high BTC"]
    assert stage.record(None) == []
    assert stage.record(0.0, premium_unjudged=True) == []
    assert stage.record(0.0) == ["cleared high BTC"]


def test_steps_of_the_wall_clock_change_no_duration(tmp_path: Path) -> None:
    stage = Stage(tmp_path, high=premium(over=0.05, for_s=3))
    stage.record(0.06)
    for by_ms in (-7_200_000, 7_200_000):
        at = stage.at()
        at.wall_ms += by_ms
        stage.rules.on_record(
            Record("BTC", at.wall_ms, 1.0, None, 0.06, PremiumRecord(0.06, 0.06, None)), at
        )
    assert stage.taken() == []
    assert stage.record(0.06, after_s=3) == ["raised high BTC"]


def test_a_percentile_needs_samples_and_follows_them(tmp_path: Path) -> None:
    stage = Stage(tmp_path, rare=premium(over_percentile=95, window="1h", hysteresis=5, for_s=0))
    # 59 minutes at 0.1 % … 5.9 %; a percentile means nothing before the first 30
    for n in range(1, 60):
        found = stage.record(n / 1000, after_s=60)
        assert found == (["raised rare BTC"] if n == LEAST else [])
    # the window is 0.1 … 5.9 % and the running minute: ranks of 60
    assert stage.record(0.0535, after_s=60) == ["cleared rare BTC"]
    assert stage.record(0.0555, after_s=1) == []
    assert stage.record(0.0575, after_s=1) == ["raised rare BTC"]


def test_a_record_of_the_future_is_no_sample(tmp_path: Path) -> None:
    stage = Stage(tmp_path, rare=premium(over_percentile=50, window="1h", for_s=0))
    at = stage.at()
    for n in range(LEAST):
        ts_ms = at.wall_ms + 86_400_000 + n * 60_000
        parts = PremiumRecord(0.1, 0.1, None)
        stage.rules.on_record(Record("BTC", ts_ms, 1.0, None, 0.1, parts), at)
    (samples,) = stage.rules.samples.values()
    assert samples.percentile(ts_ms, "1h", 1.0) is None


def test_stored_premiums_stand_behind_live_ones() -> None:
    samples = Samples({"1h", "90d"})
    now_ms = WALL_MS - WALL_MS % 3_600_000
    minutes, hours = samples.rings[60_000], samples.rings[3_600_000]
    samples.add(now_ms, 0.5)
    for n in range(100):
        minutes.fill(now_ms - n * 60_000, n / 100)
    # of the newest 60 minutes 1 … 59 are stored; the running one is live
    assert samples.percentile(now_ms, "1h", 0.5) == pytest.approx(100 * 51 / 60)
    assert hours.percentile(now_ms, 90 * 24, 0.5) is None
    samples.add(now_ms - 200 * 24 * 3_600_000, 9.0)
    assert samples.percentile(now_ms, "1h", 8.0) == 100


async def test_earlier_premiums_are_read_from_the_database(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[tuple[str, int, int]] = []

    async def stored(_: object, asset: str, step_ms: int, start_ms: int, end_ms: int) -> Any:
        asked.append((asset, step_ms, end_ms - start_ms))
        times = [(end_ms - n * step_ms) * 1_000_000 for n in range(1, 60)]
        return [{"ns": ns, "coin": n / 1000, "fiat": None} for n, ns in enumerate(times, 1)]

    monkeypatch.setattr(history, "premium_samples", stored)
    settings = Settings(data=tmp_path)
    settings.alerts.rules = {
        "rare": AlertRule(kind="premium", assets=["BTC"], over_percentile=99, for_s=0)
    }
    (tmp_path / "run").mkdir()
    alerter = Alerter(Process(NAME, settings))
    try:
        await alerter._fill()
    finally:
        await alerter._close()
    assert asked == [("BTC", 60_000, 24 * 3_600_000)]
    (samples,) = alerter.rules.samples.values()
    now_ms = now_ns() // 1_000_000
    assert samples.percentile(now_ms, "24h", 1.0) == 100
    assert samples.percentile(now_ms, "24h", 0.0005) == 0


def test_an_index_without_a_value_and_a_silent_one(tmp_path: Path) -> None:
    stage = Stage(tmp_path, ("BTC", "ETH"), null={"kind": "index", "for_s": 30})
    stage.record(None, value=None, reason="too_few_venues")
    assert stage.check(after_s=28) == []
    # ETH has had no record since the start, a second earlier
    assert stage.check(after_s=1) == ["raised null ETH"]
    assert stage.check(after_s=1) == ["raised null BTC"]
    assert stage.record(0.0) == ["cleared null BTC"]
    assert stage.check(after_s=29) == []
    assert stage.check(after_s=1) == ["raised null BTC"]


def test_a_venue_that_delivers_nothing(tmp_path: Path) -> None:
    stage = Stage(tmp_path, stale={"kind": "venue", "venues": "upbit:*", "for_s": 20})
    bad = {"upbit:BTC/KRW": "stale", "binance:BTC/USDT": "stale"}
    assert stage.check(venues=bad) == []
    assert stage.check(after_s=20, venues=bad) == ["raised stale upbit:BTC/KRW"]
    assert stage.check(venues={"upbit:BTC/KRW": None}) == ["cleared stale upbit:BTC/KRW"]
    stage.check(venues=bad)
    assert stage.check(after_s=20, venues=bad) == ["raised stale upbit:BTC/KRW"]
    # not collected any more
    assert stage.check(venues={}) == ["cleared stale upbit:BTC/KRW"]


def beat(process: str, states: object) -> Message:
    topic = f"heartbeat.{process}.".encode()
    body = orjson.dumps({"process": process, "states": states})
    return Message.decode(topic, encode_header(m.HEARTBEAT, payload_size=len(body)), body)


def test_states_come_from_heartbeats_and_silence(tmp_path: Path) -> None:
    settings = Settings(data=tmp_path)
    settings.exchanges["upbit"].markets = ["BTC/KRW"]
    venues = Venues(settings, 0)
    assert venues.problems(0)["upbit:BTC/KRW"] == "not known yet"
    venues.on_message(beat("orderbook-collector-upbit", {"BTC/KRW": "synced", "A/KRW": "stale"}), 1)
    assert venues.problems(SILENT_NS)["upbit:BTC/KRW"] is None
    assert venues.problems(SILENT_NS)["upbit:A/KRW"] == "stale"
    assert venues.problems(SILENT_NS + 2)["upbit:BTC/KRW"] == (
        "without a heartbeat of its collector"
    )
    for states in ({"BTC/KRW": 7}, ["BTC/KRW"], 3):
        venues.on_message(beat("orderbook-collector-upbit", states), 2)
    assert venues.malformed == 3
    venues.on_message(beat("orderbook-collector-elsewhere", {"BTC/KRW": "synced"}), 3)
    assert not [name for name in venues.problems(3) if "elsewhere" in name]


def worker(**more: Any) -> Health:
    facts = {"state": "ready", "started_ns": 1, **more}
    return Health("ticker-storage-worker", **facts)


def test_storage_that_is_behind_and_a_process_that_is_down(tmp_path: Path) -> None:
    stage = Stage(
        tmp_path,
        behind={"kind": "storage", "behind_s": 20, "for_s": 0},
        down={"kind": "process", "for_s": 5},
    )
    counters = {"oldest_pending_s": 19.0}
    assert stage.check(healths=(worker(counters=counters),)) == []
    gone = worker(state="down", age_s=2.0, counters=counters)
    assert stage.check(healths=(gone,)) == ["raised behind ticker-storage-worker"]
    assert stage.check(after_s=5, healths=(gone,)) == ["raised down ticker-storage-worker"]
    good = worker(counters={"oldest_pending_s": 0.5})
    assert stage.check(healths=(good,)) == [
        "cleared down ticker-storage-worker",
        "cleared behind ticker-storage-worker",
    ]
    # an operator has stopped it: no alert, and the end of none
    unwell = worker(state="degraded", counters=good.counters)
    stage.check(healths=(unwell,))
    assert stage.check(after_s=5, healths=(unwell,)) == ["raised down ticker-storage-worker"]
    assert stage.check(healths=(worker(state="down", stopped=True),)) == []
    assert stage.check(healths=(good,)) == ["cleared down ticker-storage-worker"]
    stopped = worker(state="down", stopped=True, age_s=99.0, counters=counters)
    assert stage.check(after_s=99, healths=(stopped,)) == []


def test_open_gaps_and_losses(tmp_path: Path) -> None:
    stage = Stage(tmp_path, gap={"kind": "gap", "for_s": 10})
    name = "ticker-storage-worker"

    def seen(after_s: float = 1.0, started_ns: int = 1, **counters: float) -> list[str]:
        facts = {"gaps_open": 0, "messages_lost": 0, **counters}
        return stage.check(after_s, healths=(worker(started_ns=started_ns, counters=facts),))

    # what was lost before the first look is not news
    assert seen(messages_lost=7, gaps_open=1) == []
    assert seen(messages_lost=7, gaps_open=1, after_s=10) == [f"raised gap {name}"]
    assert seen(messages_lost=7) == [f"cleared gap {name}"]
    assert seen(messages_lost=8) == [f"raised gap {name} lost"]
    assert seen(messages_lost=9, after_s=300) == []
    assert seen(messages_lost=9, after_s=LOST_NS / SECOND_NS - 1) == []
    assert seen(messages_lost=9) == [f"cleared gap {name} lost"]
    # another run of the process counts from 0
    assert seen(messages_lost=0, started_ns=2) == []
    assert seen(messages_lost=1, started_ns=2) == [f"raised gap {name} lost"]
    assert stage.rules.lost == {name: Lost(2, 1)}


def test_what_a_new_run_of_a_process_has_lost_is_news(tmp_path: Path) -> None:
    stage = Stage(tmp_path, gap={"kind": "gap"})
    assert stage.check(healths=(worker(counters={"trades_lost": 5}),)) == []
    again = worker(started_ns=2, counters={"trades_lost": 2})
    assert stage.check(healths=(again,)) == ["raised gap ticker-storage-worker lost"]


def test_a_full_disk_with_hysteresis(tmp_path: Path) -> None:
    stage = Stage(tmp_path, disk={"kind": "disk", "free_mb": 100, "hysteresis": 50, "for_s": 0})
    found = [stage.check(free_mb=free) for free in (100, 99, 149, None, 150)]
    assert found == [[], ["raised disk disk"], [], [], ["cleared disk disk"]]


def test_a_restart_neither_repeats_nor_forgets_an_alert(tmp_path: Path) -> None:
    stage = Stage(tmp_path, high=premium(over=0.05, for_s=0))
    assert stage.record(0.06) == ["raised high BTC"]
    standing = list(stage.rules.standing.values())
    after = Stage(tmp_path, high=premium(over=0.05, for_s=0))
    after.rules = Rules(after.settings, after.events.append, after.at(), standing)
    assert after.record(0.07) == []
    assert after.record(0.01) == ["cleared high BTC"]


def test_alerts_of_rules_that_are_gone_end(tmp_path: Path) -> None:
    stage = Stage(tmp_path, ("BTC", "ETH"), high=premium(over=0.05, for_s=0))
    stage.record(0.06), stage.record(0.06, asset="ETH")
    stage.settings.alerts.rules["high"].assets = ["BTC"]
    stage.rules.apply(stage.settings, stage.at())
    assert stage.taken() == ["cleared high ETH"]
    stage.settings.alerts.rules = {}
    stage.rules.apply(stage.settings, stage.at())
    assert stage.taken() == ["cleared high BTC"]
    other = [Standing("high", "venue", "upbit:BTC/KRW", WALL_MS)]
    found = Stage(tmp_path, high=premium(over=0.05))
    Rules(found.settings, found.events.append, found.at(), other)
    assert found.taken() == ["cleared high upbit:BTC/KRW"]


def test_alerts_are_bounded(tmp_path: Path) -> None:
    stage = Stage(tmp_path, stale={"kind": "venue", "for_s": 0})
    many = {f"upbit:A{n}/KRW": "stale" for n in range(MOST_ALERTS + 5)}
    assert len(stage.check(venues=many)) == MOST_ALERTS
    assert stage.rules.counters()["alerts_standing"] == MOST_ALERTS
    assert stage.rules.overflow == 5
    # records of assets without a rule are not remembered
    stage.record(0.1, asset="NOBODY")
    assert not stage.rules._heard


def test_an_event_is_one_printable_line(tmp_path: Path) -> None:
    stage = Stage(tmp_path, stale={"kind": "venue", "for_s": 0})
    name = "upbit:\x1b[31m\n<b>‮A/KRW"
    stage.now_s += 1
    stage.rules.check(stage.at(), {name: "stale" * 200}, (), None)
    (event,) = stage.events
    assert event.text.isprintable()
    assert len(event.text) < 400


TOML = """
[alerts.rules.one]
{rule}
[alerts.targets.ops]
url = "http://127.0.0.1:9/secret-path"
"""


@pytest.mark.parametrize(
    ("rule", "words"),
    [
        (
            'kind = "premium"\nover = "high"',
            "alerts.rules.one.over: Input should be a valid number",
        ),
        ('kind = "premium"\nover = nan', "alerts.rules.one.over: Input should be a finite number"),
        ('kind = "premium"\nover = 5', "alerts.rules.one.over: expected a fraction between -1 and"),
        ('kind = "premium"', "alerts.rules.one: expected exactly one of over, under"),
        ('kind = "premium"\nover = 0.1\nunder = 0', "was over and under"),
        (
            'kind = "premium"\nover = 0.01\nhysteresis = 0.02',
            "hysteresis: expected at most 0.01, since over is 0.01, was 0.02",
        ),
        (
            'kind = "premium"\nunder_percentile = 99\nhysteresis = 2',
            "hysteresis: expected at most 1, since under_percentile is 99",
        ),
        ('kind = "premium"\nover_percentile = 100', "over_percentile: Input should be less than"),
        ('kind = "premium"\novr = 0.1', "did you mean 'alerts.rules.NAME.over'?"),
        (
            'kind = "premum"\nover = 0.1',
            "alerts.rules.one.kind: Input should be 'premium', 'venue'",
        ),
        ('kind = "disk"\nover = 0.1', "expected keys of a rule of kind disk"),
        ('kind = "index"\nfor_s = -1', "alerts.rules.one.for_s: Input should be greater than"),
        ('kind = "index"\nassets = ["BTX"]', "there is no index of 'BTX': did you mean 'BTC'?"),
        ('kind = "venue"\nvenues = "upbti:*"', "alerts.rules.one.venues: expected EXCHANGE:BASE"),
        ('kind = "venue"\nvenues = "upbit:NO/KRW"', "expected a market that is collected"),
        ('kind = "process"\nprocesses = "index-calc"', "did you mean 'index-calculator'?"),
        ('kind = "gap"\ntargets = "pos"', "unknown target 'pos': did you mean 'ops'?"),
    ],
)
def test_a_wrong_rule_is_named_with_what_was_expected(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rule: str, words: str
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "coinspace.toml").write_text(TOML.format(rule=rule))
    with pytest.raises(ConfigError) as caught:
        check(load())
    assert words in str(caught.value)
    assert "alerts.rules.one" in str(caught.value)
    assert "secret" not in str(caught.value)


def test_ten_thousand_rules_are_fine_and_too_many_pairs_are_refused(tmp_path: Path) -> None:
    settings = Settings(data=tmp_path)
    settings.alerts.rules = {
        f"r{n}": AlertRule(kind="premium", assets=["BTC"], over=0.01, for_s=0)
        for n in range(10_000)
    }
    assert problems(settings) == []
    events: list[Event] = []
    rules = Rules(settings, events.append, Moment(0, WALL_MS))
    rules.on_record(
        Record("BTC", WALL_MS, 1.0, None, 0.1, PremiumRecord(0.1, 0.1, None)), Moment(1, WALL_MS)
    )
    assert len(events) == 10_000
    for rule in settings.alerts.rules.values():
        rule.assets = ["*"]
    assert problems(settings) == [
        "alerts.rules: expected at most 20000 pairs of a rule and an asset, was 40000"
    ]


def test_several_hosts_need_one_with_the_role(tmp_path: Path) -> None:
    table = '[hosts.a]\naddress="127.0.0.1"\nroles=["storage","index","collectors","endpoint"{}]'
    path = tmp_path / "coinspace.toml"
    rule = '[alerts.rules.one]\nkind = "gap"\n'
    path.write_text(rule + table.format(""))
    assert problems(load(path)) == [
        "hosts: alerts.rules need a host with the role alerter, was none"
    ]
    path.write_text(rule + table.format(',"alerter"'))
    assert problems(load(path)) == []
    assert "alerter" in dict(load(path).processes())
