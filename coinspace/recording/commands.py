"""`coinspace feed info|verify|cut|merge|convert`."""

from __future__ import annotations

import datetime as dt
import sys
from pathlib import Path
from typing import Any

import click

from coinspace.errors import ConfigError, FeedError
from coinspace.instant import iso_ns
from coinspace.recording.format import LAST_NS, FeedReader, first_ns
from coinspace.recording.progress import reading
from coinspace.recording.tools import Summary, cut, merge_feeds, replacing, summarise
from coinspace.text import json_line, printable

FILE = click.Path(path_type=Path)
# digits of a present time in ns since 1970
NS_DIGITS = 19
# longer than any recording
LONGEST_S = 366 * 86_400.0


@click.group()
def feed() -> None:
    """Inspect, cut, merge and convert recordings."""


def _read(paths: tuple[Path, ...], text: str, *, check: bool) -> list[Summary]:
    summaries = []
    for path in paths:
        try:
            reader = FeedReader(path)
        except FeedError as error:
            if not check:
                raise
            summaries.append(Summary(path, {"exchange": None}, errors=[str(error)], n_errors=1))
            continue
        with reader, reading([reader], f"{text} {path.name}"):
            summaries.append(summarise(reader, check=check))
    return summaries


def _time(ns: int) -> str:
    if not ns:
        return "-"
    return dt.datetime.fromtimestamp(ns / 1e9, dt.UTC).strftime("%Y-%m-%d %H:%M:%S.%f")[:-3]


@feed.command()
@click.argument("feeds", nargs=-1, required=True, type=FILE)
@click.option("--json", "as_json", is_flag=True, help="one JSON line per feed")
def info(feeds: tuple[Path, ...], as_json: bool) -> None:
    """Print a summary of recordings: exchange, time, records, gaps and frames by kind."""
    for summary in _read(feeds, "read", check=False):
        facts = summary.facts()
        if as_json:
            click.echo(json_line(facts))
        else:
            _print_info(facts)


def _print_info(facts: dict[str, Any]) -> None:
    click.echo(printable(facts["path"]))
    counts = ", ".join(f"{n} {direction}" for direction, n in facts["records"].items())
    ratio = facts["payload_bytes"] / max(1, facts["file_bytes"])
    lines = [
        ("exchange", f"{facts['exchange']}  {facts['url'] or ''}"[:110]),
        ("time", f"{_time(facts['first_ns'])} to {_time(facts['last_ns'])} UTC"),
        (
            "length",
            f"{facts['duration_s']:.1f} s, silent {facts['longest_silence_s']:.1f} s at most",
        ),
        ("records", counts or "none"),
        ("bytes", f"{facts['file_bytes']:,} for {facts['payload_bytes']:,} ({ratio:.1f} x)"),
        ("gaps", f"{facts['gaps']} ({facts['ids_missing']} ids)"),
    ]
    if facts["marks"]:
        lines.append(("marks", ", ".join(f"{n} {name}" for name, n in facts["marks"].items())))
    if facts["torn"]:
        lines.append(("end", "incomplete; all records before it were read"))
    for name, text in lines:
        click.echo(f"  {name:9} {printable(text)}")
    for one in facts["frames"]:
        click.echo(f"  {one['frames']:9,} {printable(one['kind'])} {printable(one['symbol'])}")


@feed.command()
@click.argument("feeds", nargs=-1, required=True, type=FILE)
@click.option("--json", "as_json", is_flag=True, help="one JSON line per feed")
def verify(feeds: tuple[Path, ...], as_json: bool) -> None:
    """Check recordings: checksums, format, order of time, JSON, gaps in ids, a complete end.

    Exit code 1 when a check fails. Plain files and recordings of earlier versions have no
    checksums: a changed digit in them cannot be found, and the output says so. `feed cut` writes a
    copy with checksums.
    """
    wrong = False
    for summary in _read(feeds, "verify", check=True):
        bad = bool(summary.n_errors or summary.gaps)
        wrong = wrong or bad
        if as_json:
            click.echo(json_line({"ok": not bad, **summary.facts()}))
            continue
        n = sum(summary.records.values())
        found = f"{summary.n_errors} errors, {summary.gaps} gaps" if bad else "ok"
        click.echo(f"{printable(summary.path)}: {found}, {n} records{_unchecked(summary)}")
        for error in summary.errors:
            click.echo(f"  {printable(error)}")
    sys.exit(int(wrong))


def _unchecked(summary: Summary) -> str:
    if not summary.unchecked_blocks:
        return ""
    n, blocks = summary.unchecked_blocks, summary.blocks
    return f"; content cannot be verified: no checksum in {n} of {blocks} blocks"


def _moment(text: str | None, begin_ns: int, option: str) -> int | None:
    if text is None:
        return None
    found = _moment_ns(text, begin_ns)
    if found is None or found > LAST_NS:
        raise ConfigError(
            f"{option}: expected seconds after the start, ns since 1970 ({NS_DIGITS} digits)"
            f" or ISO 8601, was {text!r}"
        )
    return max(0, found)


def _moment_ns(text: str, begin_ns: int) -> int | None:
    # seconds after the start, ns since 1970, or ISO 8601
    if text.isascii() and text.isdigit() and len(text) == NS_DIGITS:
        return int(text)
    try:
        seconds = float(text)
    except ValueError:
        pass
    else:
        # a larger number is a time since 1970 in another unit
        return begin_ns + int(seconds * 1e9) if 0 <= seconds < LONGEST_S else None
    try:
        return iso_ns(text, utc=True)
    except ValueError:
        return None


def _new(target: Path, force: bool) -> None:
    if target.exists() and not force:
        raise ConfigError(f"{target}: expected no file here, found one; --force overwrites it")


@feed.command("cut")
@click.argument("source", type=FILE)
@click.argument("target", type=FILE)
@click.option("--from", "start", help="seconds after the start, ns since 1970 or ISO 8601")
@click.option("--to", "end", help="end of the range, not included; same formats as --from")
@click.option("--symbol", "symbols", multiple=True, help="BTC/KRW or the exchange's symbol")
@click.option("--kind", "kinds", multiple=True, help="orderbook, trade, depth@100ms …")
@click.option("--force", is_flag=True, help="overwrite")
def cut_command(
    source: Path,
    target: Path,
    start: str | None,
    end: str | None,
    symbols: tuple[str, ...],
    kinds: tuple[str, ...],
    force: bool,
) -> None:
    """Write part of a recording. Feeds of book updates start with a snapshot of each book."""
    _new(target, force)
    begin_ns = first_ns(source)
    start_ns = _moment(start, begin_ns, "--from") or 0
    end_ns = _moment(end, begin_ns, "--to")
    if end_ns is not None and end_ns <= start_ns:
        raise ConfigError(f"--from and --to: expected from before to, was {start} and {end}")
    n = cut(source, target, start_ns=start_ns, end_ns=end_ns, symbols=symbols, kinds=kinds)
    click.echo(json_line({"path": str(target), "records": n}))


@feed.command("merge")
@click.argument("sources", nargs=-1, required=True, type=FILE)
@click.argument("target", type=FILE)
@click.option("--force", is_flag=True, help="overwrite")
def merge_command(sources: tuple[Path, ...], target: Path, force: bool) -> None:
    """Merge recordings of one exchange, such as the files of an archive, by receive time."""
    _new(target, force)
    n = merge_feeds(sources, target)
    click.echo(json_line({"path": str(target), "records": n}))


@feed.command()
@click.argument("source", type=FILE)
@click.argument("target", type=FILE)
@click.option("--force", is_flag=True, help="overwrite")
def convert(source: Path, target: Path, force: bool) -> None:
    """Convert a recording to Parquet or Parquet to a recording; the target's name decides."""
    from coinspace.recording.parquet import from_parquet, to_parquet

    _new(target, force)
    if target.suffix == ".parquet":
        with (
            FeedReader(source) as reader,
            reading([reader], f"convert {source.name}"),
            replacing(target) as part,
        ):
            n = to_parquet(reader, part)
    elif source.suffix == ".parquet":
        with replacing(target) as part:
            n = from_parquet(source, part)
    else:
        raise ConfigError(f"convert: expected one name to end with .parquet, was {target}")
    click.echo(json_line({"path": str(target), "records": n}))
