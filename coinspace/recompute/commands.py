"""The commands `compute-index` and `verify-index`: offline, from books or recordings."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import json
import sys
import tomllib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import click
import orjson
from msgspec import to_builtins

from coinspace.clock import MILLISECOND_NS
from coinspace.config import IndexParameters, IndexSettings, config_option, index_parameters, load
from coinspace.errors import CoinSpaceError, ConfigError
from coinspace.index.calculator import Index
from coinspace.index.commands import write
from coinspace.instant import typed_ns
from coinspace.market import as_named
from coinspace.method.record import IndexRecord
from coinspace.recompute.snapshots import SnapshotReader
from coinspace.recompute.table import FORMS, LinesFile, TableFile


def choose(index: IndexSettings, changes: dict[str, Any]) -> None:
    """Override parameters of all assets, also those of venues' facts and of the rate.

    Raises: ConfigError naming an unknown key or a value out of range.
    """
    index.parameters = index_parameters({**index.parameters.model_dump(), **changes}, "parameters")
    index.overrides = {
        asset: {key: value for key, value in own.items() if key not in changes}
        for asset, own in index.overrides.items()
    }


def read_parameters(path: Path) -> dict[str, Any]:
    """Read a file of parameters, TOML or JSON. Raises: ConfigError."""
    try:
        text = path.read_text()
        values = json.loads(text) if text.lstrip().startswith("{") else tomllib.loads(text)
    except (OSError, ValueError, RecursionError) as error:
        raise ConfigError(f"{path}: expected parameters as TOML or JSON: {error}") from None
    return dict(values)


def instant(context: click.Context, parameter: click.Parameter, value: str | None) -> int | None:
    """Read a time in ns; UTC if it has no zone."""
    try:
        return None if value is None else typed_ns(value)
    except ValueError as error:
        raise click.BadParameter(str(error)) from None


@click.command("compute-index")
@click.argument("feeds", nargs=-1, type=click.Path(path_type=Path))
@click.option("--snapshots", metavar="FILE|-", help="JSON lines, one tick with all books each")
@click.option("--mode", type=click.Choice(["integral", "grid"]))
@click.option("--spacing", type=float, help="grid step, units of base")
@click.option("--max-spread", type=float, help="D, as a fraction: 0.005 is 0.5 %")
@click.option("--max-deviation", type=float, help="P, as a fraction")
@click.option("--lag-ms", type=float, help="age at which a book is delayed")
@click.option("--min-venues", type=int)
@click.option("--regions", type=click.Choice(["off", "default"]))
@click.option("--depth", type=click.Choice(["full", "coverage"]))
@click.option("--decimals", type=int, help="of the published value")
@click.option("--cap-band", type=float, help="price band of the size cap's sample, as a fraction")
@click.option("--cap-min-per-side", type=int, help="minimum levels of that sample per side")
@click.option("--usd-krw", type=float, help="reference rate for the premium's fiat basis")
@click.option(
    "--params",
    type=click.Path(path_type=Path),
    help="parameters as TOML or JSON; options override them",
)
@click.option(
    "--explain",
    metavar="TS",
    callback=instant,
    help="print one tick (ms) with its curve, level by level",
)
@click.option("--hash", "hashed", is_flag=True, help="print only count and SHA-256 of the records")
@click.option("--format", "form", type=click.Choice(["jsonl", *FORMS]), help="output format")
@click.option("--output", type=click.Path(path_type=Path), help="file, by default stdout")
@config_option
def compute_index(
    feeds: tuple[Path, ...],
    snapshots: str | None,
    params: Path | None,
    explain: int | None,
    hashed: bool,
    form: str | None,
    output: Path | None,
    config_path: str | None,
    **options: Any,
) -> None:
    """Compute index records from snapshots of books or from recordings; one JSON line per tick.

    With --output FILE.parquet or FILE.arrow, one row per tick for pandas and polars.
    """
    if bool(feeds) == bool(snapshots):
        raise click.UsageError("expected either --snapshots FILE|- or recordings")
    if output is not None and (hashed or explain is not None):
        raise click.UsageError("--output: expected neither --hash nor --explain with it")
    ending = output.suffix.removeprefix(".") if output is not None else ""
    form = form or (ending if ending in FORMS else "jsonl")
    if form in FORMS and output is None:
        raise click.UsageError(f"{form} is binary: expected --output FILE")
    changes = read_parameters(params) if params else {}
    changes |= {name: value for name, value in options.items() if value is not None}
    settings = load(config_path)
    choose(settings.index, changes)
    chosen = functools.cache(settings.index.parameters_of)
    with writer_to(output, form) as written:
        result = Output(None if explain is None else explain / MILLISECOND_NS, hashed, written)
        if snapshots is not None:
            for record, index in from_snapshots(snapshots, chosen, settings.index):
                result.take(record, index)
        else:
            # recordings need the collectors, whose imports take longer than most snapshots
            from coinspace.recompute.feeds import from_feeds

            replay = from_feeds(feeds, settings, chosen, result.take)
            if replay.pauses:
                click.echo(f"{replay.pauses} pauses of the recordings skipped", err=True)
            click.echo(f"{replay.records} records of feeds, {result.records} ticks", err=True)
        result.finish()
    if output is not None:
        click.echo(f"wrote {output}", err=True)


@contextlib.contextmanager
def writer_to(output: Path | None, form: str) -> Iterator[Callable[[IndexRecord], None]]:
    """Yield a function that writes a record; a file appears only when it is complete.

    Args: output: None = stdout.
    """
    if output is None:
        yield write
        return
    file = TableFile(output, form) if form in FORMS else LinesFile(output)
    complete = False
    try:
        yield file.write
        complete = True
    finally:
        file.close(complete=complete)


class Output:
    """The output of records: all written, one explained, or only their hash."""

    def __init__(
        self, wanted_ms: float | None, hashed: bool, write_record: Callable[[IndexRecord], None]
    ) -> None:
        self._wanted_ms = wanted_ms
        self._hash = hashlib.sha256() if hashed else None
        self._write = write_record
        self._found = False
        self.records = 0

    def take(self, record: IndexRecord, index: Index) -> None:
        """Take the next record; `index` still has its curve."""
        self.records += 1
        if self._wanted_ms is not None:
            if record.ts_ms == self._wanted_ms:
                self._found = True
                write({**to_builtins(record), **index.explain()})
        elif self._hash is not None:
            self._hash.update(orjson.dumps(reproducible(record), option=orjson.OPT_SORT_KEYS))
        else:
            self._write(record)

    def finish(self) -> None:
        """End the output. Raises: CoinSpaceError without any tick or without the explained one."""
        if not self.records:
            raise CoinSpaceError(
                "compute-index: expected books of markets of an index, found none, so no tick"
            )
        if self._hash is not None:
            write({"records": self.records, "sha256": self._hash.hexdigest()})
        if self._wanted_ms is not None and not self._found:
            at = f"{self._wanted_ms:.16g}"
            raise CoinSpaceError(f"--explain: expected a tick at {at} ms, found none")


# status -> the fields that a record without it leaves out
LATER = {
    "usd_krw_status": [one for one in IndexRecord.__struct_fields__ if one.startswith("usd_krw")],
    "usdt_usd_status": ["usdt_usd", "usdt_usd_status", "value_usd"],
}


def reproducible(record: IndexRecord) -> dict[str, Any]:
    """Return a record without latency and epochs, which differ between computations of a tick."""
    found: dict[str, Any] = to_builtins(record) | {"latency_ns": None}
    for one in found["inputs"].values():
        del one["epoch"]
    for one in (*found["venues"].values(), *found["fx_venues"].values()):
        if one["grouped_from"] is None:
            del one["grouped_from"]
    # so that the hash equals that of records without these fields
    if not record.repeated:
        del found["repeated"]
    for status, names in LATER.items():
        if found[status] is None:
            for name in names:
                del found[name]
    return found


def from_snapshots(
    path: str, chosen: Callable[[str], IndexParameters], settings: IndexSettings
) -> Iterator[tuple[IndexRecord, Index]]:
    """Yield the record of each line. Raises: SnapshotError naming a line."""
    reader = SnapshotReader(chosen, settings)
    indices: dict[str, Index] = {}
    try:
        stream = sys.stdin.buffer if path == "-" else Path(path).open("rb")  # noqa: SIM115
    except OSError as error:
        raise CoinSpaceError(f"--snapshots {path}: expected a readable file: {error}") from None
    with stream:
        for number, raw in enumerate(stream, 1):
            if not raw.strip():
                continue
            aggregate = reader.read(raw.decode("utf-8", "replace"), number)
            index = indices.get(aggregate.asset)
            if index is None:
                index = Index(aggregate.asset, chosen(aggregate.asset))
                indices[aggregate.asset] = index
            yield index.compute(aggregate), index
    if reader.ignored:
        click.echo(f"{reader.ignored} books ignored: not constituents of the asset", err=True)


@click.command("verify-index")
@click.option(
    "--feeds",
    "folder",
    required=True,
    type=click.Path(path_type=Path),
    help="folder of archived raw feeds, searched with its subfolders",
)
@click.option("--from", "start_ns", required=True, callback=instant, help="first tick")
@click.option("--to", "end_ns", required=True, callback=instant, help="end, not included")
@click.option("--asset", "assets", multiple=True, help="default: all configured")
@click.option("--restate", is_flag=True, help="write index_recalc rows for errors above 0.10 %")
@click.option("--operator", default="", help="who restates")
@click.option("--because", default="", help="why")
@config_option
def verify_index(
    folder: Path,
    start_ns: int,
    end_ns: int,
    assets: tuple[str, ...],
    restate: bool,
    operator: str,
    because: str,
    config_path: str | None,
) -> None:
    """Compute stored records again from archived feeds; exit code 1 when a tick differs.

    index.interval_ms must not be 0: then the updates behind a tick are not recorded.

    A published row never changes. --restate writes extra rows to index_recalc, with the original
    value, for values of the current day that were wrong by more than 0.10 %.
    """
    if restate and not (operator and because):
        raise click.UsageError("--restate: expected --operator and --because with it")
    if (operator or because) and not restate:
        raise click.UsageError("--operator and --because: expected --restate with them")
    from coinspace.recompute.audit import Restatement, verify

    settings = load(config_path)
    assets = tuple(dict.fromkeys(as_named(one) for one in assets))
    unknown = [one for one in assets if one not in settings.index.assets]
    if unknown:
        raise ConfigError(
            f"--asset: expected some of {', '.join(settings.index.assets)}, was"
            f" {', '.join(unknown)}"
        )
    if end_ns <= start_ns:
        raise ConfigError("--from and --to: expected from before to")
    verdict = verify(
        settings,
        folder,
        (start_ns, end_ns),
        list(assets) or settings.index.assets,
        Restatement(operator, because) if restate else None,
    )
    write(verdict)
    click.echo(verdict.summary(), err=True)
    if not verdict.good:
        raise SystemExit(1)
