"""`coinspace premium`: the kimchi premium of all assets in the terminal, once or as it moves."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import click
from rich.console import Console
from rich.live import Live
from rich.text import Text

from coinspace.clock import MILLISECOND_NS
from coinspace.config import config_option, load
from coinspace.instant import shown
from coinspace.listing import columns
from coinspace.query import endpoint_url
from coinspace.text import printable

Row = dict[str, Any]
BASES = ("coin", "fiat")
QUESTIONED = "not the same coin?"
# lines besides the rows: heading and last line
OTHER_LINES = 2
# a pipe has no width
PIPE_WIDTH = 120


class Column(NamedTuple):
    """A column. Attributes: place: columns of a low place stay longest in a narrow terminal."""

    title: str
    width: int
    place: int
    text: Callable[[Row], str]


def _part(row: Row, *names: str) -> Any:
    found: Any = row
    for name in names:
        found = found.get(name) if isinstance(found, dict) else None
    return found


def percent(value: Any, places: int = 2, *, sign: bool = True) -> str:
    """Return a fraction in percent, "-" for none."""
    try:
        number = 100 * float(value)
    except (TypeError, ValueError):
        return "-"
    text = f"{number:+,.{places}f}" if sign else f"{number:,.{places}f}"
    # of an asset whose name means two coins
    return text if len(text) <= 9 else f"{number:+.1e}"


def _columns(basis: str) -> tuple[Column, ...]:
    other = BASES[1 - BASES.index(basis)]
    titles = {"coin": "USDT %", "fiat": "USD %"}
    return (
        Column("asset", 9, 0, lambda row: printable(row.get("asset"), 9)),
        Column(titles[basis], 9, 1, lambda row: percent(row.get(basis))),
        Column(titles[other], 9, 2, lambda row: percent(row.get(other))),
        Column("1 h", 7, 4, lambda row: percent(_part(row, "stats", basis, "change_1h"))),
        Column("24 h", 7, 5, lambda row: percent(_part(row, "stats", basis, "change_24h"))),
        Column(
            "pct",
            5,
            3,
            lambda row: percent(_part(row, "stats", basis, "percentile_24h"), 0, sign=False),
        ),
        Column("left", 7, 6, lambda row: percent(_part(row, "trade", basis))),
        Column("", 18, 7, _note),
        Column("wallets", 7, 8, lambda row: printable(_part(row, "trade", "transfer") or "", 7)),
        Column("pair", 30, 9, _pair),
    )


def _note(row: Row) -> str:
    if row.get("same_coin") == "questioned":
        return QUESTIONED
    return "stale" if row.get("stale") else "unjudged" if row.get("unjudged") else ""


def _pair(row: Row) -> str:
    buy, sell = (str(_part(row, "trade", name) or "") for name in ("buy", "sell"))
    names = (printable(one.partition(":")[0], 14) for one in (buy, sell))
    return " → ".join(names) if buy and sell else ""


def ordered(rows: dict[str, Row], basis: str) -> list[Row]:
    """Return rows, the highest premium first; coins that may not be the same come last."""

    def key(row: Row) -> tuple[bool, bool, float]:
        try:
            premium = float(row[basis])
        except (KeyError, TypeError, ValueError):
            return row.get("same_coin") == "questioned", True, 0.0
        return row.get("same_coin") == "questioned", False, -premium

    return sorted(rows.values(), key=key)


def table(rows: list[Row], basis: str, width: int) -> list[str]:
    """Return a heading and a line per row, of at most `width` columns."""
    all_columns = _columns(basis)
    room = width
    chosen: list[Column] = []
    for column in sorted(all_columns, key=lambda one: one.place):
        needed = column.width + bool(chosen)
        if needed <= room or not chosen:
            chosen.append(column)
            room -= needed
    kept = [one for one in all_columns if one in chosen]
    marked = not any(one.text is _note for one in kept)
    lines = [_line([one.title for one in kept], kept)]
    for row in rows:
        cells = [one.text(row) for one in kept]
        if marked and row.get("same_coin") == "questioned":
            # without room for the words
            cells[0] = f"{cells[0][:8]}?"
        lines.append(_line(cells, kept))
    return [one[:width] for one in lines]


def _line(cells: list[str], kept: list[Column]) -> str:
    parts = []
    for number, (cell, column) in enumerate(zip(cells, kept, strict=True)):
        space = " " * max(0, column.width - columns(cell))
        left = number == 0 or column.text in (_note, _pair)
        parts.append(cell + space if left else space + cell)
    return " ".join(parts).rstrip()


def changed_lines(data: dict[str, Any], rows: dict[str, Row]) -> Iterator[str]:
    """Yield a line per changed premium of an event: time, asset, both premiums in percent."""
    for row in data["premiums"]:
        if row.keys() & {*BASES, "same_coin"} and row["asset"] in rows:
            whole = rows[row["asset"]]
            time = shown(int(whole["ts"]) * MILLISECOND_NS)
            premiums = "\t".join(percent(whole.get(basis), 4) for basis in BASES)
            note = _note(whole)
            yield f"{time}\t{printable(row['asset'])}\t{premiums}" + (f"\t{note}" if note else "")


def _screen(rows: dict[str, Row], basis: str, missing: int) -> Text:
    size = shutil.get_terminal_size()
    found = ordered(rows, basis)
    room = max(1, size.lines - OTHER_LINES - 1)
    lines = table(found[:room], basis, size.columns)
    parts = [f"{len(found)} assets"]
    if len(found) > room:
        parts.append(f"{len(found) - room} below")
    if missing:
        parts.append(f"{missing} without a premium")
    parts.append("Ctrl-C ends")
    text = Text("\n".join((*lines, ", ".join(parts)[: size.columns])), no_wrap=True)
    text.stylize("bold", 0, len(lines[0]))
    return text


@click.command()
@click.argument("assets", nargs=-1)
@click.option("--watch", is_flag=True, help="go on with each change, at most once a second")
@click.option("--basis", type=click.Choice(BASES), default="coin", help="against USDT, or USD")
@click.option("--url", help="the endpoint; by default this machine's")
@click.option("--key", envvar="COINSPACE_KEY", help="API key (better in $COINSPACE_KEY)")
@config_option
def premium(
    assets: tuple[str, ...],
    watch: bool,
    basis: str,
    url: str | None,
    key: str | None,
    config_path: str | None,
) -> None:
    """Print the kimchi premium of all assets, or of ASSETS, in percent.

    Columns: the premium against USDT and USD, its changes in percentage points, pct (the percentage
    of the last 24 h at or below it), left (what a trade of 10,000,000 KRW leaves after fees),
    wallets (whether the coin can be moved from the first exchange of the pair to the second). With
    --watch, a pipe gets a line per change: time, asset, both premiums.
    """
    from coinspace.client import Client, merged_premiums

    wanted = {one.upper() for one in assets}

    def chosen(rows: dict[str, Row]) -> dict[str, Row]:
        return {asset: row for asset, row in rows.items() if not wanted or asset in wanted}

    terminal = sys.stdout.isatty()
    with Client(url or endpoint_url(load(config_path)), key=key) as client:
        # refuses an unknown asset, and fails where no endpoint is
        client.premiums(*assets, limit=1)
        rows: dict[str, Row] = {}
        screen = Live(console=Console(), auto_refresh=False) if watch and terminal else None
        try:
            if screen is not None:
                screen.start()
            for event in client.stream(premiums=True, reconnect=watch):
                if event.name != "premiums":
                    continue
                rows = merged_premiums(rows, event.data)
                if screen is not None:
                    missing = 0 if wanted else len(event.data["missing"])
                    screen.update(_screen(chosen(rows), basis, missing), refresh=True)
                elif watch:
                    for line in changed_lines(event.data, chosen(rows)):
                        click.echo(line)
                else:
                    width = shutil.get_terminal_size().columns if terminal else PIPE_WIDTH
                    click.echo("\n".join(table(ordered(chosen(rows), basis), basis, width)))
                    return
        except KeyboardInterrupt:
            return
        finally:
            if screen is not None:
                screen.stop()
