"""`coinspace questdb` and `coinspace reconcile`."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
import webbrowser
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import click

from coinspace.clock import HOUR_NS, SECOND_NS, now_ns
from coinspace.config import Settings, config_option, load
from coinspace.errors import ConfigError, StorageError
from coinspace.health_file import alive, read_health
from coinspace.instant import typed_ns
from coinspace.process import COMMAND, run
from coinspace.storage.questdb import keeper
from coinspace.storage.questdb.address import address, root
from coinspace.storage.questdb.server import START_TIMEOUT_S, STOP_TIMEOUT_S, exec_status
from coinspace.text import json_line, printable

if TYPE_CHECKING:
    from coinspace.storage.reconcile import Line, Report

EXIT_DEGRADED = 1
# messages younger than this may not be stored yet
IN_FLIGHT_NS = 10 * SECOND_NS
EXIT_DOWN = 2
HEADS = ("publisher", "topic")


@click.group()
def questdb() -> None:
    """Run the private QuestDB server.

    The server listens on loopback only, has random credentials and keeps its data in the data
    folder.
    """


@questdb.command()
@config_option
@click.option("--foreground", is_flag=True, help="run until SIGTERM or Ctrl-C")
def start(config_path: str | None, foreground: bool) -> None:
    """Start the server and wait until it answers."""
    settings = load(config_path)
    if settings.storage.ilp:
        raise ConfigError(
            "storage.ilp: expected an empty value for the private server, was another server's"
            " address"
        )
    if foreground:
        run(keeper.PROCESS_NAME, settings, keeper.keep)
        return
    if _pid(settings):
        click.echo(f"already running: {address(settings).http}", err=True)
        return
    _start_detached(settings, config_path)
    click.echo(address(settings).http)


def _start_detached(settings: Settings, config_path: str | None) -> None:
    command = [*COMMAND, "questdb", "start", "--foreground"]
    if config_path:
        command += ["--config", config_path]
    folder = settings.data / "logs"
    folder.mkdir(parents=True, exist_ok=True)
    log_path = folder / "questdb.log"
    with log_path.open("ab") as log:
        offset = log.tell()
        child = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=log,
            start_new_session=True,
        )
    deadline = time.monotonic() + START_TIMEOUT_S
    while True:
        health = read_health(settings, keeper.PROCESS_NAME)
        if health and health.get("pid") == child.pid and health.get("state") == "ready":
            return
        if child.poll() is not None:
            lines = log_path.read_bytes()[offset:].decode(errors="replace").strip().splitlines()
            reason = lines[-1].removeprefix("coinspace: ") if lines else f"see {log_path}"
            raise StorageError(reason)
        if time.monotonic() > deadline:
            child.terminate()
            raise StorageError(
                f"QuestDB: expected an answer within {START_TIMEOUT_S:.0f} s, was none;"
                f" see {log_path}"
            )
        time.sleep(0.1)


@questdb.command()
@config_option
def stop(config_path: str | None) -> None:
    """Stop the server; committed rows stay."""
    settings = load(config_path)
    pid = _pid(settings)
    if not pid:
        click.echo("not running", err=True)
        return
    os.kill(pid, signal.SIGTERM)
    deadline = time.monotonic() + STOP_TIMEOUT_S + 5
    while alive(pid):
        if time.monotonic() > deadline:
            raise StorageError(f"QuestDB: expected process {pid} to end, it still runs")
        time.sleep(0.05)
    click.echo("stopped")


@questdb.command()
@config_option
@click.option("--json", "as_json", is_flag=True, help="one JSON object")
def status(config_path: str | None, as_json: bool) -> None:
    """Print the server's state. Exit code 0: it answers, 1: degraded, 2: down."""
    settings = load(config_path)
    facts, code = _facts(settings)
    if as_json:
        click.echo(json_line(facts))
    else:
        for name, value in facts.items():
            click.echo(f"{name:12} {printable(value)}")
    raise SystemExit(code)


@questdb.command()
@config_option
def resume(config_path: str | None) -> None:
    """Resume suspended tables and refresh invalid views, such as after a full disk."""
    from coinspace.storage import schema

    done = schema.resume(address(load(config_path)))
    for statement in done:
        click.echo(printable(statement))
    if not done:
        click.echo("no table is suspended, no view is invalid", err=True)


def _facts(settings: Settings) -> tuple[dict[str, object], int]:
    facts: dict[str, object] = {"managed": not settings.storage.ilp}
    try:
        found = address(settings)
    except StorageError as error:
        return facts | {"state": "down", "reason": str(error)}, EXIT_DOWN
    facts |= {"http": found.http, "pid": found.pid, "folder": str(root(settings).absolute())}
    health = read_health(settings, keeper.PROCESS_NAME) if not settings.storage.ilp else None
    if health:
        facts["uptime_s"] = round(max(0, now_ns() - health["started_ns"]) / SECOND_NS, 1)
        facts["restarts"] = health["counters"].get("restarts", 0)
    if found.http and exec_status(found, "select%201") != 200:
        reason = "no answer" if not health or not health["reason"] else health["reason"]
        runs = bool(found.pid) and alive(found.pid)
        state, code = ("degraded", EXIT_DEGRADED) if runs else ("down", EXIT_DOWN)
        return facts | {"state": state, "reason": reason}, code
    return facts | {"state": "ready"}, 0


@questdb.command()
@config_option
@click.option("--open", "open_page", is_flag=True, help="open the console in a browser")
def console(config_path: str | None, open_page: bool) -> None:
    """Print the address of the server's web console and its login."""
    settings = load(config_path)
    found = address(settings)
    if not found.http:
        raise ConfigError("storage.ilp: the console needs an http:: address, was tcp::")
    url = f"{found.http}/index.html"
    click.echo(url)
    if found.user:
        managed = root(settings).absolute() / "credentials.json"
        hint = "storage.ilp" if settings.storage.ilp else managed
        click.echo(f"user {found.user}, password in {hint}", err=True)
    if open_page and not webbrowser.open(url):
        raise StorageError(f"console: expected a browser on this host, found none; open {url}")


def _pid(settings: Settings) -> int:
    # pid of the keeper, 0 when none runs: the health file of a killed process stays
    health = read_health(settings, keeper.PROCESS_NAME)
    pid = health.get("pid") if health else None
    # a damaged file must not name this process's group or every process
    if not isinstance(pid, int) or pid <= 1 or not alive(pid):
        return 0
    with contextlib.suppress(OSError):
        if b"questdb" not in Path(f"/proc/{pid}/cmdline").read_bytes():
            return 0
    return pid


@click.command()
@config_option
@click.option("--from", "start", help="ISO 8601 or epoch ms; by default an hour before --to")
@click.option("--to", "end", help="ISO 8601 or epoch ms, not included; by default 10 s ago")
@click.option("--json", "as_json", is_flag=True, help="one JSON object, times in ns")
def reconcile(config_path: str | None, start: str | None, end: str | None, as_json: bool) -> None:
    """Prove that every received message is stored.

    Prints counts per publisher, topic and minute: messages received, repeats, in a journal,
    published, stored, left out by `storage.policy`, ever in a gap, and explained by the table
    `gap`. Exit code 1 when a message is unexplained.
    """
    from coinspace.storage.reconcile import reconcile as compare

    settings = load(config_path)
    to_ns = _time_ns(end, "--to") if end else now_ns() - IN_FLIGHT_NS
    from_ns = _time_ns(start, "--from") if start else to_ns - HOUR_NS
    if from_ns >= to_ns:
        raise ConfigError(f"--from and --to: expected from before to, was {start} and {end}")
    watched = not as_json and sys.stderr.isatty()
    progress = partial(click.echo, err=True) if watched else None
    report = compare(settings, from_ns, to_ns, progress)
    if as_json:
        click.echo(json_line(report.as_dict()))
    else:
        _print_report(report)
    if not report.lines:
        raise StorageError(
            "reconcile: expected messages in this time, found none in the database or a journal"
        )
    raise SystemExit(1 if report.total.unexplained else 0)


def _print_report(report: Report) -> None:
    """Print a report; the total comes first, since there may be many lines."""
    from coinspace.storage.reconcile import COUNTS

    names = [HEADS]
    names += [(printable(line.publisher), printable(line.topic)) for line in report.lines]
    who, width = (max(len(name) for name in column) + 1 for column in zip(*names, strict=True))
    click.echo(
        f"{'minute':17}{HEADS[0]:{who}}{HEADS[1]:{width}}"
        + "".join(f"{name:>12}" for name in COUNTS)
    )

    def echo(minute: str, publisher: str, topic: str, line: Line) -> None:
        counts = "".join(f"{getattr(line, name):12}" for name in COUNTS)
        click.echo(f"{minute:17}{publisher:{who}}{topic:{width}}{counts}")

    echo("total", "", "", report.total)
    for line in report.lines:
        minute = datetime.fromtimestamp(line.minute_ns / 1e9, UTC).strftime("%Y-%m-%d %H:%M")
        echo(minute, printable(line.publisher), printable(line.topic), line)
    if report.lines_left_out:
        click.echo(
            f"{report.lines_left_out} more lines are only in the total:"
            " choose a shorter time with --from and --to to see them",
            err=True,
        )
    for publisher, topic, epoch, sequence in report.unexplained[:20]:
        text = f"unexplained: {publisher} {topic} epoch {epoch} sequence {sequence}"
        click.echo(printable(text), err=True)


def _time_ns(text: str, option: str) -> int:
    try:
        return typed_ns(text)
    except ValueError as error:
        raise ConfigError(f"{option}: {error}") from None
