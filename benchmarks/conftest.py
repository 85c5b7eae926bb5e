"""How `make bench` reports: a line as each measurement ends, then one table of all of them."""

from __future__ import annotations

import pytest
from rich.console import Console

from benchmarks.history import remember
from benchmarks.measure import Bench, Result, line_of, missed
from coinspace.bench.table import digits, table

MEASURED: pytest.StashKey[list[Result]] = pytest.StashKey()


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--once", action="store_true", help="run each measurement once, without its gates"
    )


def pytest_configure(config: pytest.Config) -> None:
    config.pluginmanager.register(Progress(config))


class Progress:
    """Writes a line as each measurement ends."""

    def __init__(self, config: pytest.Config) -> None:
        self._config = config
        self._results: list[Result] = []
        config.stash[MEASURED] = self._results
        self._tests = self._ended = self._shown = 0

    def pytest_collection_finish(self, session: pytest.Session) -> None:
        self._tests = len(session.items)

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.when != "teardown":
            return
        self._ended += 1
        reporter = self._config.pluginmanager.get_plugin("terminalreporter")
        new = self._results[self._shown :]
        self._shown = len(self._results)
        if reporter is not None:
            for text in map(progress, new) if new else [report.nodeid.rpartition("::")[2]]:
                reporter.write_line(f"[{self._ended:3}/{self._tests}] {text}")

    @pytest.hookimpl(tryfirst=True)
    def pytest_report_teststatus(self, report: pytest.TestReport) -> tuple[str, str, str] | None:
        """Show no dot for a measurement, whose line says more."""
        if not report.passed:
            return None
        return ("passed" if report.when == "call" else "", "", "")


@pytest.fixture
def bench(request: pytest.FixtureRequest) -> Bench:
    """What `gated` needs: whether to check gates, and where results go."""
    config = request.config
    return Bench(bool(config.getoption("once")), config.stash[MEASURED])


def progress(result: Result) -> str:
    """Return a result in one line."""
    line = line_of(result)
    beside = "" if line.ratio is None else f"; {line.peer}: {digits(line.ratio)} ×"
    return f"{line.stage}: {line.ours}{beside}" + (f", {line.verdict}" if line.verdict else "")


def pytest_terminal_summary(
    terminalreporter: pytest.TerminalReporter, config: pytest.Config
) -> None:
    """Print the table and what misses its gate or goal; add the run to this machine's history."""
    found = config.stash[MEASURED]
    if not found:
        return
    Console(width=max(120, terminalreporter._tw.fullwidth)).print(table(map(line_of, found)))
    for text in missed(found):
        terminalreporter.write_line(text)
    terminalreporter.write_line(f"added to {remember(found)}; `make bench-history` compares runs")
