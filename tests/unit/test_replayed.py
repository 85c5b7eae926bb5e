"""`up --replay`: the settings of a platform on recordings."""

from __future__ import annotations

import subprocess
from collections.abc import Iterable
from pathlib import Path

import orjson
import pytest
from click.testing import CliRunner
from structlog.testing import capture_logs

from coinspace.cli import coinspace
from coinspace.config import Settings
from coinspace.errors import ConfigError, FeedError
from coinspace.recording.format import FeedWriter
from coinspace.replayed import markets_of, narrow
from coinspace.simulator.simulated_feed import write_feeds

MARKETS = {"upbit": ["DOGE/KRW", "USDT/KRW"], "binance": ["BTC/USDT", "DOGE/USDT"]}


@pytest.fixture
def feeds(tmp_path: Path) -> list[Path]:
    list(write_feeds(tmp_path / "day.feed.zst", 4, MARKETS, duration_s=2))
    return sorted(tmp_path.glob("day-*"))


def test_the_markets_are_those_of_the_recordings(feeds: list[Path]) -> None:
    found = markets_of(feeds)
    assert {name: sorted(markets) for name, markets in found.items()} == MARKETS


def test_settings_are_reduced_to_the_recordings(feeds: list[Path], tmp_path: Path) -> None:
    settings = Settings(data=tmp_path)
    settings.index.assets = ["BTC", "ETH", "DOGE"]
    environment = narrow(settings, feeds)
    assert settings.index.assets == ["BTC", "DOGE"]
    assert sorted(settings.exchanges["upbit"].markets) == MARKETS["upbit"]
    assert settings.exchanges["bithumb"].markets == []
    names = [name for name, _ in settings.processes()]
    assert "orderbook-collector-bithumb" not in names
    assert "ticker-collector-binance" in names
    assert orjson.loads(environment["COINSPACE_INDEX__ASSETS"]) == ["BTC", "DOGE"]
    assert orjson.loads(environment["COINSPACE_EXCHANGES__BITHUMB__MARKETS"]) == []


def test_the_processes_get_the_same_settings(
    feeds: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = Settings(data=tmp_path)
    for name, text in narrow(settings, feeds).items():
        monkeypatch.setenv(name, text)
    assert Settings(data=tmp_path).index.assets != ["BTC"]
    from coinspace.config import load

    loaded = load()
    assert loaded.index.assets == settings.index.assets == ["BTC"]
    assert [one for one, _ in loaded.processes()] == [one for one, _ in settings.processes()]


def test_recordings_of_other_assets_are_named(feeds: list[Path], tmp_path: Path) -> None:
    settings = Settings(data=tmp_path)
    settings.index.assets = ["SOL"]
    with pytest.raises(ConfigError, match=r"expected order books of SOL .*found BTC/USDT, DOGE/"):
        narrow(settings, feeds)
    with FeedWriter(tmp_path / "empty.feed.zst", {"exchange": "upbit"}):
        pass
    with pytest.raises(ConfigError, match="found none"):
        narrow(Settings(data=tmp_path), [tmp_path / "empty.feed.zst"])
    (tmp_path / "text.feed.zst").write_text("no feed")
    with pytest.raises(FeedError):
        narrow(Settings(data=tmp_path), [tmp_path / "text.feed.zst"])


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["--replay"], "expected --replay and recordings together"),
        (["day.feed.zst"], "expected --replay and recordings together"),
        (["--simulate", "--replay", "day.feed.zst"], "was both"),
    ],
)
def test_options_that_do_not_fit(arguments: list[str], text: str) -> None:
    done = CliRunner().invoke(coinspace, ["up", *arguments])
    assert done.exit_code == 2
    assert text in done.output


def write_books(path: Path, symbols: Iterable[str]) -> Path:
    with FeedWriter(path, {"exchange": "binance"}) as writer:
        for number, symbol in enumerate(symbols):
            frame = {
                "stream": f"{symbol.lower()}@depth@100ms",
                "data": {"e": "depthUpdate", "E": 1, "s": symbol, "U": 1, "u": 2, "b": [], "a": []},
            }
            writer.write(number + 1, "<", "", orjson.dumps(frame))
    return path


def test_symbols_that_name_no_market_are_counted_and_left_out(tmp_path: Path) -> None:
    path = write_books(tmp_path / "x.feed.zst", ["/USDT", "BTCUSDT", "한국USDT", "USDT", "X" * 30])
    with capture_logs() as lines:
        assert markets_of([path]) == {"binance": ["BTC/USDT", "한국/USDT"]}
    (line,) = lines
    assert (line["event"], line["symbols"]) == ("symbols left out", 3)


def test_settings_of_any_recording_fit_into_the_environment(tmp_path: Path) -> None:
    """Linux refuses to start a process with a variable of more than 128 KiB."""
    symbols = [f"A{number}USDT" for number in range(20_000)]
    path = write_books(tmp_path / "x.feed.zst", [*symbols, "BTCUSDT"])
    settings = Settings(data=tmp_path)
    with capture_logs() as lines:
        environment = narrow(settings, [path])
    (line,) = lines
    markets = settings.exchanges["binance"].markets
    assert len(markets) + line["symbols"] == 20_001
    assert "BTC/USDT" in markets
    assert environment["COINSPACE_EXCHANGES__BINANCE__MARKETS"] == orjson.dumps(markets).decode()
    subprocess.run(["true"], env=environment, check=True)
