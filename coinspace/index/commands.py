"""The commands `index-reset-clock` and `verify-chain`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import click
import orjson
from msgspec import to_builtins

from coinspace.clock import now_ns
from coinspace.config import config_option, load
from coinspace.errors import CoinSpaceError
from coinspace.index.reset import declare_void, ticks_ahead
from coinspace.index.store import append_links, checked_links
from coinspace.storage.archive import Archive
from coinspace.text import json_line, printable


def write(facts: Any) -> None:
    """Write one JSON line to stdout."""
    line = json_line(facts, orjson.OPT_APPEND_NEWLINE, to_builtins)
    sys.stdout.buffer.write(line)
    sys.stdout.buffer.flush()


@click.command("index-reset-clock")
@click.option("--operator", default="", help="who declares the ticks void")
@click.option("--because", default="", help="why")
@config_option
def index_reset_clock(operator: str, because: str, config_path: str | None) -> None:
    """Show stored ticks that lie in the future. A clock that was ahead made them.

    Without options, these records stay valid. --operator and --because declare them void: then
    each instant gets a new record when its time comes. The void records are kept in index_recalc.
    A running index-calculator follows within seconds.
    """
    if bool(operator) != bool(because):
        raise click.UsageError("expected --operator and --because together")
    settings, now = load(config_path), now_ns()
    found = (
        declare_void(settings, now, operator, because) if operator else ticks_ahead(settings, now)
    )
    for one in found:
        click.echo(printable(one))
    if not found:
        click.echo("no stored tick lies in the future", err=True)
    elif operator:
        click.echo("void: these instants get records when their time comes", err=True)
    else:
        click.echo("to declare them void: --operator NAME --because TEXT", err=True)


@click.command("verify-chain")
@click.option("--append", is_flag=True, help="add the missing links of closed days")
@click.option("--no-check", is_flag=True, help="with --append: add only, check nothing")
@click.option("--json", "as_json", is_flag=True, help="one JSON line per day")
@click.option(
    "--archive",
    type=click.Path(path_type=Path, exists=True, file_okay=False),
    help="folder of `coinspace archive`, for days that are no longer in the database",
)
@config_option
def verify_chain(
    append: bool, no_check: bool, as_json: bool, archive: Path | None, config_path: str | None
) -> None:
    """Check the daily hash chain over all stored records; exit code 1 when a day is wrong.

    Of a day whose records the retention has removed, only the link can be checked, unless --archive
    has the records.
    """
    if no_check and not append:
        raise click.UsageError("--no-check: expected --append with it")
    settings = load(config_path)
    if append:
        click.echo(f"{append_links(settings)} days added", err=True)
        if no_check:
            return
    wrong_days = days = unread = 0
    for one in checked_links(settings, None if archive is None else Archive(archive)):
        link = one.link
        days += 1
        wrong_days += bool(one.wrong)
        unread += one.removed and not one.archived
        if as_json:
            facts = {"wrong": one.wrong, "removed": one.removed, "archived": one.archived}
            write({**link.facts(), **facts})
        else:
            state = "ok, archived" if one.archived else "link ok, records removed"
            words = printable("; ".join(one.wrong)) or (state if one.removed else "ok")
            click.echo(f"{link.day} {link.records} records {link.link[:16]}… {words}")
    more = f", of {unread} only the link: their records are removed" if unread else ""
    click.echo(f"{days} days checked, {wrong_days} wrong{more}", err=True)
    if wrong_days:
        raise SystemExit(1)
    if not days:
        raise CoinSpaceError("verify-chain: the chain has no day; add closed days with --append")
