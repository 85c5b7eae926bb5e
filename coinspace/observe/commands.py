"""`coinspace status`, `top` and `doctor`: the first commands of an operator."""

from __future__ import annotations

import sys
import time
from dataclasses import asdict
from typing import TYPE_CHECKING

import click

from coinspace.errors import CoinSpaceError
from coinspace.observe.health import Health, all_health, exit_code, health_of, heard
from coinspace.observe.watched import watched
from coinspace.plain_options import SECONDS, config_option
from coinspace.storage.disk import room_problems
from coinspace.text import cell, json_line, printable

# what the others import is left out of `status`, which scripts call often
if TYPE_CHECKING:
    from rich.table import Table

    from coinspace.observe.screen import Rates


@click.command()
@config_option
@click.option("--json", "as_json", is_flag=True, help="one JSON object on stdout")
def status(config_path: str | None, as_json: bool) -> None:
    """Show each process's state; exit code 0 healthy, 1 degraded, 2 down."""
    found = watched(config_path)
    if found.several:
        from coinspace.config import load

        settings = load(config_path)
        healths = all_health(settings, heard(settings))
    else:
        healths = [health_of(found, name) for name in found.names]
    problems = room_problems(found.disk, found.disk_low_mb)
    code = exit_code(healths) or int(bool(problems))
    word = ("healthy", "degraded", "down")[code]
    if as_json:
        body = {
            "status": word,
            "problems": problems,
            "processes": [asdict(health) for health in healths],
        }
        click.echo(json_line(body))
    else:
        for health in healths:
            reason = printable(health.reason or "")
            click.echo(f"{health.process:32} {printable(health.state):9} {reason}".rstrip())
        for problem in problems:
            click.echo(printable(problem))
        click.echo(word)
    sys.exit(code)


@click.command()
@config_option
@click.option(
    "--interval",
    default=1.0,
    type=SECONDS,
    show_default=True,
    help="seconds between readings",
)
@click.option("--once", is_flag=True, help="two readings, one table, then end")
@click.option("--counters", is_flag=True, help="show every counter and its rate")
@click.option("--all", "every", is_flag=True, help="show counters that are zero too")
def top(config_path: str | None, interval: float, once: bool, counters: bool, every: bool) -> None:
    """Watch the processes, one line each: load, memory, output, backlog and reason."""
    from rich.console import Console
    from rich.live import Live

    from coinspace.config import load
    from coinspace.observe.screen import WIDTH, Rates, process_table

    settings = load(config_path)
    rates, remote = Rates(), heard(settings)
    rates.read(all_health(settings, remote))
    console = Console() if sys.stdout.isatty() else Console(width=WIDTH)
    try:
        with Live(console=console, auto_refresh=False, screen=not once) as live:
            while True:
                time.sleep(interval)
                now = all_health(settings, remote)
                rates.read(now)
                if counters or every:
                    shown = _counters_table(now, rates, every)
                else:
                    shown = process_table(now, rates)
                live.update(shown, refresh=True)
                if once:
                    break
    except KeyboardInterrupt:
        return
    if all(health.state == "down" for health in now):
        raise CoinSpaceError("top: no process runs; `coinspace up` starts them")


def _counters_table(healths: list[Health], rates: Rates, every: bool) -> Table:
    from rich.table import Table

    table = Table()
    for column in ("process", "state", "counter"):
        table.add_column(column)
    table.add_column("total", justify="right")
    table.add_column("per second", justify="right")
    for health in healths:
        table.add_row(
            cell(health.process), cell(health.state), "out", "", f"{rates.output(health):,.1f}"
        )
        for name, value in sorted(health.counters.items()):
            if value or every:
                rate = rates.of(health, name)
                per_second = f"{rate:,.1f}" if rate else ""
                table.add_row("", "", cell(name), f"{value:,.10g}", per_second)
    return table


@click.command()
@config_option
@click.option("--json", "as_json", is_flag=True, help="one JSON object on stdout")
def doctor(config_path: str | None, as_json: bool) -> None:
    """Check this host and the running platform; exit code 1 when something must be repaired."""
    from coinspace.config import load
    from coinspace.observe.doctor import check_host

    findings = check_host(load(config_path))
    if as_json:
        click.echo(json_line({"findings": [asdict(finding) for finding in findings]}))
    else:
        for finding in findings:
            mark = {"ok": "ok     ", "advice": "advice ", "problem": "PROBLEM"}[finding.level]
            click.echo(f"{mark} {printable(finding.subject)}: {printable(finding.text)}")
    sys.exit(any(finding.level == "problem" for finding in findings))
