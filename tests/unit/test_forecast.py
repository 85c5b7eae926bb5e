"""The predicted size of the database, and what the default policy leaves room for."""

from __future__ import annotations

import pytest
from click.testing import CliRunner

from coinspace.cli import coinspace
from coinspace.config import Settings, StoragePolicy, StorageSettings
from coinspace.market import ASSETS
from coinspace.storage.forecast import Forecast, Line, forecast

TERABYTE = 10**12
WHOLE = {"upbit": "*/KRW", "bithumb": "*/KRW", "binance": "*/USDT"}


def whole(**storage: object) -> Settings:
    """Return the settings of about 1,200 markets and 250 indices."""
    settings = Settings(storage=StorageSettings(**storage))  # type: ignore[arg-type]
    for name, pattern in WHOLE.items():
        settings.exchanges[name].markets = [pattern]
    # 250 indices: those of the default assets five times a second, the others each second
    settings.index.assets = [*ASSETS, "*"]
    return settings


def test_a_disk_is_full_when_the_lines_have_filled_it() -> None:
    lines = [Line("a", 10.0, None), Line("b", 100.0, 3.0)]
    assert Forecast(lines, 0).bytes_a_day == 110
    assert Forecast(lines, 0).after(2) == 220
    assert Forecast(lines, 0).after(100) == 1000 + 300
    assert Forecast(lines, 1300).days == 100
    assert Forecast(lines, 219).days == 1
    assert Forecast(lines[1:], 300).days is None


def test_a_terabyte_holds_a_year_of_whole_markets_by_default() -> None:
    found = forecast(whole(), TERABYTE)
    assert found.after(365) < TERABYTE, found.text()
    assert found.days is None or found.days >= 365, found.text()
    # storing everything does not fit
    everything = forecast(whole(policy=[]), TERABYTE)
    assert (everything.days or 365) < 30, everything.text()


def test_the_policy_changes_the_prediction() -> None:
    def books(**entry: float) -> float:
        policy = [StoragePolicy(markets=["*"], **entry)]  # type: ignore[arg-type]
        lines = forecast(whole(policy=policy), TERABYTE).lines
        return next(line.bytes_a_day for line in lines if line.table == "orderbook")

    assert books(depth=10) < 0.5 * books(depth=30)
    assert books(books_per_second=1) < 0.3 * books()
    # each market at most once a second
    assert books(books_per_second=1, depth=1) < 1300 * 86_400 * 250


def test_doctor_shows_it(monkeypatch: pytest.MonkeyPatch) -> None:
    result = CliRunner().invoke(coinspace, ["doctor"])
    line = next(one for one in result.output.splitlines() if "a day (" in one)
    assert "orderbook" in line
    assert "index_tick" in line
    assert "free:" in line
