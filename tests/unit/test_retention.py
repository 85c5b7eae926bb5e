"""Retention: durations are read and checked, and a TTL that is not configured stays."""

from __future__ import annotations

from pathlib import Path

import pytest

from coinspace.config import StorageSettings, load
from coinspace.errors import ConfigError
from coinspace.storage import retention
from coinspace.storage.tables import TICKER, TRADE


@pytest.mark.parametrize(
    ("text", "length"),
    [
        ("12h", (12, "h")),
        ("7d", (168, "h")),
        ("7 DAYS", (168, "h")),
        ("1 week", (168, "h")),
        ("2w", (336, "h")),
        ("3M", (3, "M")),
        ("1 Month", (1, "M")),
        ("1y", (12, "M")),
        ("off", (0, "h")),
        ("Keep", (0, "h")),
    ],
)
def test_durations_are_hours_or_months(text: str, length: tuple[int, str]) -> None:
    assert retention.parse(text) == length
    assert StorageSettings(retention={"orderbook": text}).retention == {"orderbook": text}


@pytest.mark.parametrize("text", ["7", "d", "7m", "-1d", "0d", "1.5d", "7 fortnights", "999999d"])
def test_other_durations_are_refused(text: str) -> None:
    with pytest.raises(ValueError, match="retention"):
        StorageSettings(retention={"orderbook": text})


@pytest.mark.parametrize(
    "unit", ["HOUR", "DAY", "WEEK", "MONTH", "YEAR", "HOURS", "Days", "DECADE"]
)
def test_every_unit_of_the_server_has_a_length(unit: str) -> None:
    value, _ = retention.length(3, unit)
    assert value >= 3
    assert retention.length(0, unit)[0] == 0


@pytest.mark.parametrize(
    ("name", "text", "word"),
    [
        ("orderbok", "7d", "orderbook"),
        ("ticker", "12h", "whole partitions of a day"),
        ("ticker", "36h", "whole partitions of a day"),
        ("gap", "31d", "whole partitions of a month"),
        ("trade_1h", "6M", "whole partitions of a year"),
    ],
)
def test_a_retention_that_the_server_would_refuse_is_a_configuration_error(
    name: str, text: str, word: str
) -> None:
    with pytest.raises(ConfigError, match=word):
        retention.check(StorageSettings(retention={name: text}))


def test_a_ttl_that_was_set_manually_stays() -> None:
    for found in ((24, "h"), (1, "M"), (0, "h"), (7, "DECADE")):
        for storage in (StorageSettings(), StorageSettings(ttl="off")):
            assert retention.wanted(TICKER, found, storage) == found


def test_a_configured_retention_is_enforced() -> None:
    given = StorageSettings(retention={"ticker": "1M"})
    assert retention.wanted(TICKER, (24, "h"), given) == (1, "M")
    assert retention.wanted(TRADE, (24, "h"), given) == (24, "h")
    off = StorageSettings(retention={"ticker": "off"})
    assert retention.wanted(TICKER, (24, "h"), off) == (0, "h")
    assert retention.initial(TICKER, off) == ""


def test_ttl_off_removes_the_default_only() -> None:
    off = StorageSettings(ttl="off")
    assert retention.wanted(TICKER, retention.parse(TICKER.ttl), off) == (0, "h")
    assert retention.initial(TICKER, off) == ""
    assert retention.initial(TICKER, StorageSettings(ttl="off", retention={"ticker": "7d"})) == "7d"


def test_a_file_and_the_environment_set_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "coinspace.toml"
    path.write_text('[storage.retention]\norderbook = "2d"\n')
    assert load(path).storage.retention == {"orderbook": "2d"}
    monkeypatch.setenv("COINSPACE_STORAGE__RETENTION__TICKER", "1M")
    assert load(path).storage.retention["ticker"] == "1M"
