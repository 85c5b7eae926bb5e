"""Stored definitions of the index: parameters, candidates, operators' actions, the hash chain."""

from __future__ import annotations

from pathlib import Path

import orjson
import pytest
from click.testing import CliRunner

from coinspace.cli import coinspace
from coinspace.clock import SECOND_NS
from coinspace.config import IndexSettings, Settings, StorageSettings
from coinspace.index import chain
from coinspace.index.governance import announce
from coinspace.index.store import store
from coinspace.storage import retention, schema
from coinspace.storage.questdb.address import address
from coinspace.storage.records import Row
from coinspace.storage.tables import TABLES
from tests.flow.database import applied, emptied, query

DAY_NS = 18_000 * chain.DAY_NS


@pytest.fixture
def settings(questdb: Settings, tmp_path: Path) -> Settings:
    found = address(questdb)
    schema.create(found, StorageSettings(ttl="off"))
    emptied(questdb, "methodology", "operator_log")
    emptied(questdb, "index_chain", "index_tick", "index_venue", "gap")
    storage = StorageSettings(ilp=found.ilp, sql=found.sql, ttl="off")
    return Settings(data=tmp_path, storage=storage, index=IndexSettings(assets=["BTC"]))


class Starts:
    """A process that starts several times; each start stores what is new."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.at_ns = DAY_NS

    def news(self) -> list[Row]:
        self.at_ns += SECOND_NS
        rows = list(announce(self.settings, self.at_ns))
        if rows:
            store(self.settings, rows)
            applied(self.settings)
        return rows


def test_a_definition_is_stored_once_and_again_when_it_changes(settings: Settings) -> None:
    starts = Starts(settings)
    (first,) = starts.news()
    assert first.table == "methodology"
    definition = orjson.loads(first.columns["definition"])
    assert definition["parameter_hash"] == first.symbols["parameter_hash"]
    assert definition["constituents"] == ["binance:BTC/USDT", "bithumb:BTC/KRW", "upbit:BTC/KRW"]
    assert definition["parameters"]["max_spread"] == 0.005
    assert definition["depths"]["binance"] == 500
    assert any("unjudged" in note for note in definition["notes"])
    assert starts.news() == []
    # a candidate is announced beside the live one, which stays
    settings.index.next = {"max_deviation": 0.04}
    (candidate,) = starts.news()
    assert candidate.symbols["role"] == "next"
    assert candidate.symbols["parameter_hash"] != first.symbols["parameter_hash"]
    assert starts.news() == []
    # the exchanges' depths are part of the definition too
    settings.exchanges["binance"].depth = 1000
    assert [row.symbols["role"] for row in starts.news()] == ["live", "next"]
    # the candidate becomes the live one
    settings.index.overrides["BTC"]["max_deviation"] = 0.04
    settings.index.next = {}
    (live,) = starts.news()
    assert orjson.loads(live.columns["definition"])["parameters"]["max_deviation"] == 0.04


def test_an_operators_action_is_logged_with_name_and_reason(settings: Settings) -> None:
    starts = Starts(settings)
    starts.news()
    settings.index.excluded = {"upbit:BTC/KRW": "kim: deposits suspended"}
    (row,) = starts.news()
    assert (row.symbols["operator"], row.symbols["action"]) == ("kim", "exclude")
    assert (row.columns["target"], row.columns["detail"]) == ("upbit:BTC/KRW", "deposits suspended")
    assert starts.news() == []
    settings.index.excluded = {"upbit:BTC/KRW": "lee: withdrawals too", "bithumb:BTC/KRW": "why"}
    assert {(row.symbols["operator"], row.columns["target"]) for row in starts.news()} == {
        ("lee", "upbit:BTC/KRW"),
        ("configuration", "bithumb:BTC/KRW"),
    }
    assert starts.news() == []
    settings.index.excluded = {}
    assert {row.symbols["action"] for row in starts.news()} == {"include"}
    assert starts.news() == []


def test_the_server_keeps_what_governs_the_index_for_ever(settings: Settings) -> None:
    kept = {"index_next", "index_recalc", "index_chain", "methodology", "operator_log"}
    lives = dict(query(settings, "SELECT table_name, ttlValue FROM tables()"))
    assert {name for name, life in lives.items() if not life} >= kept
    # other tests may have made the tables without lives
    default = {one.name: retention.initial(one, StorageSettings()) for one in TABLES}
    assert {name for name, life in default.items() if not life} >= kept
    assert default["orderbook"]
    assert default["index_tick"] == default["index_venue"] == "7d"


def test_the_chain_is_made_and_checked_by_the_command(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COINSPACE_DATA", str(settings.data))
    monkeypatch.setenv("COINSPACE_STORAGE__ILP", settings.storage.ilp)
    monkeypatch.setenv("COINSPACE_STORAGE__SQL", settings.storage.sql)
    ticks = [
        Row("index_tick", DAY_NS + hours * 3600 * SECOND_NS, {"asset": "BTC"}, {"value": 1.5})
        # the third day is empty, the fourth may not be over
        for hours in (5, 23, 24, 75)
    ]
    store(settings, ticks)
    applied(settings)
    result = CliRunner().invoke(coinspace, ["verify-chain", "--append", "--json"])
    assert result.exit_code == 0, result.output
    lines = [orjson.loads(line) for line in result.stdout.splitlines()]
    assert [(one["records"], one["wrong"]) for one in lines] == [(2, []), (1, []), (0, [])]
    assert lines[0]["previous"] == chain.FIRST
    assert [one["previous"] for one in lines[1:]] == [one["link"] for one in lines[:-1]]
    # a second run adds nothing; a changed record is found
    assert "0 days added" in CliRunner().invoke(coinspace, ["verify-chain", "--append"]).stderr
    query(settings, f"UPDATE index_tick SET value = 2.5 WHERE ts = {ticks[2].at_ns}::timestamp_ns")
    applied(settings)
    result = CliRunner().invoke(coinspace, ["verify-chain"])
    assert result.exit_code == 1
    assert [line.endswith("ok") for line in result.stdout.splitlines()] == [True, False, True]
