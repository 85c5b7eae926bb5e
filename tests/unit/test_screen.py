"""What an operator sees: one line per process, few status lines, one log line for many markets."""

import asyncio
import io
import re
from pathlib import Path
from typing import Any

import orjson
import pytest
from click.testing import CliRunner
from rich.console import Console
from structlog.testing import capture_logs

from coinspace._ext.sink import ListSink
from coinspace.clock import SECOND_NS, monotonic_ns, now_ns
from coinspace.collector.ticker import TickerStage
from coinspace.config import Settings
from coinspace.exchanges import exchange
from coinspace.health_file import health_path
from coinspace.log import KINDS_LIMIT, Summary
from coinspace.observe import screen
from coinspace.observe.commands import top
from coinspace.observe.health import Health
from coinspace.observe.screen import SHOWN_VALUES, WIDTH, Rates, StatusScreen

MARKETS = 300


def write(settings: Settings, name: str, **counters: int | float) -> None:
    path = health_path(settings, name)
    path.parent.mkdir(parents=True, exist_ok=True)
    facts = {
        "process": name,
        "pid": 1,
        "started_ns": 1,
        "updated_ns": now_ns(),
        "beat_ns": monotonic_ns(),
        "state": "degraded",
        "reason": "no venue has a usable book, and this is a long reason " * 5,
        "counters": counters,
    }
    path.write_bytes(orjson.dumps(facts))


def test_top_has_one_line_per_processwithin_100_columns(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COINSPACE_DATA", str(tmp_path))
    monkeypatch.setenv("COINSPACE_RATES__SOURCES", "frankfurter")
    settings = Settings(data=tmp_path)
    names = [name for name, _ in settings.processes()]
    for name in names:
        write(settings, name, published=10**9, resident_bytes=987_654_321, dropped=123_456)
    found = CliRunner().invoke(top, ["--once", "--interval", "0.01"])
    assert found.exit_code == 0, found.output
    lines = [line.rstrip() for line in found.output.splitlines() if line.strip()]
    assert [line.split()[0] for line in lines] == ["process", *names]
    assert max(map(len, lines)) <= WIDTH
    assert all("degraded" in line and "123,456" in line and "988" in line for line in lines[1:])
    assert all("no venue has" in line and line.endswith("…") for line in lines[1:])
    counters = CliRunner().invoke(top, ["--once", "--interval", "0.01", "--counters"])
    assert counters.output.count("resident_bytes") == len(names)


def test_rates_are_those_between_two_writes() -> None:
    rates, name = Rates(), "index-endpoint"

    def read(second: int, **counters: int | float) -> Health:
        health = Health(name, "ready", updated_ns=second * SECOND_NS, counters=counters)
        rates.read([health])
        return health

    assert rates.output(read(1, requests=10)) == 0
    assert rates.output(read(3, requests=30, cpu_s=1.0)) == 10
    # the same file once more
    assert rates.output(read(3, requests=30, cpu_s=1.0)) == 10
    assert rates.of(read(5, requests=30, cpu_s=1.5), "cpu_s") == 0.25
    # a restarted process counts from 0
    assert rates.output(read(6, requests=1)) == 0
    labelled = read(7, **{'frames{market="A"}': 3, 'frames{market="B"}': 4})
    assert (rates.of(labelled, "frames"), rates.of(labelled, 'frames{market="A"}')) == (7, 3)


async def test_a_status_line_has_its_time_and_few_assets(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    waits: list[float] = []
    indices = [{"asset": f"A{n}", "value": str(n)} for n in range(100)]

    async def within(seconds: float, stopping: asyncio.Event) -> bool:
        waits.append(seconds)
        return len(waits) > 3

    async def served(self: StatusScreen, session: Any) -> list[dict[str, Any]]:
        return indices

    monkeypatch.setattr(screen, "within", within)
    monkeypatch.setattr(StatusScreen, "_indices", served)
    await StatusScreen(Settings(data=tmp_path), ["index-endpoint"]).run(asyncio.Event())
    assert waits == [10, 60, 60, 60]
    lines = capsys.readouterr().out.splitlines()[3:]
    assert len(lines) == 3
    for line in lines:
        assert line[:2] == "20"
        assert line.split()[0].endswith("Z")
        assert "A7 7 … 92 more |" in line
    assert SHOWN_VALUES == 8


def test_the_table_of_a_terminal_has_the_time_and_fits(tmp_path: Path) -> None:
    settings = Settings(data=tmp_path)
    names = [name for name, _ in settings.processes()]
    healths = [Health(name, "degraded", "no [bold]heartbeat " * 20) for name in names]
    indices = [{"asset": f"A{n}", "value": str(n)} for n in range(100)]
    console = Console(width=WIDTH, record=True, file=io.StringIO())
    console.print(StatusScreen(settings, names)._table(healths, indices))
    lines = console.export_text().splitlines()
    assert max(map(len, lines)) <= WIDTH
    assert len(lines) <= len(names) + 6
    assert "A0 0   A1 1" in lines[0]
    assert re.search(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d UTC", lines[-1])


def test_what_happens_to_many_markets_is_one_line() -> None:
    upbit = exchange("upbit")
    entries = [(f"KRW-A{n}", f"A{n}/KRW") for n in range(MARKETS)]
    symbols = tuple(symbol for symbol, _ in entries)
    stage = TickerStage(upbit, entries, ListSink(clock=lambda: SECOND_NS))
    with capture_logs() as logged:
        for round_s in (1, 100):
            stage.on_connecting(symbols, round_s * SECOND_NS)
            stage.on_connected(round_s, symbols, (round_s + 1) * SECOND_NS)
            for second in range(30):
                stage.on_timer((round_s + 2 + second) * SECOND_NS)
            stage.on_disconnected(round_s, "closed", (round_s + 50) * SECOND_NS)
            stage.on_timer((round_s + 51) * SECOND_NS)
    lines = [line for line in logged if line["log_level"] != "debug"]
    assert len(lines) == 2
    for line in lines:
        assert (line["event"], line["state"], line["markets"]) == ("state", "stale", MARKETS)
        assert line["examples"] == "A0/KRW, A1/KRW, A2/KRW"
        assert "no frame within 10 s" in line["reason"]


class Lines:
    """A log that keeps its lines."""

    def __init__(self) -> None:
        self.lines: list[tuple[str, dict[str, Any]]] = []

    def warning(self, event: str, **facts: Any) -> None:
        self.lines.append((event, facts))


def test_only_lines_of_one_kind_are_joined() -> None:
    log = Lines()
    summary = Summary(log, "market")
    summary.add("warning", "state", "A", state="stale", reason="A is 3 s old", age=3, level=1)
    summary.add("warning", "state", "B", state="stale", reason="B is 4 s old", age=4, level=1)
    summary.add("warning", "state", "C", state="stale", reason="refused", age=5)
    assert log.lines == []
    summary.flush()
    summary.flush()
    joined = {"markets": 2, "examples": "A, B", "state": "stale", "reason": "A is 3 s old"}
    alone = {"market": "C", "state": "stale", "reason": "refused", "age": 5}
    assert log.lines == [("state", {**joined, "level": 1}), ("state", alone)]


def test_waiting_lines_are_bounded() -> None:
    log = Lines()
    summary = Summary(log, "market")
    for n in range(3 * KINDS_LIMIT):
        summary.add("warning", f"event {'x' * n}", "A")
    assert len(log.lines) >= 2 * KINDS_LIMIT
