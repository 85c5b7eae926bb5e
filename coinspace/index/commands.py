"""`coinspace compute-index`: books in, index records out, offline and deterministic."""

from __future__ import annotations

import json
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import orjson

from coinspace.config import IndexParameters, IndexSettings, config_option, index_parameters, load
from coinspace.errors import CoinSpaceError, ConfigError
from coinspace.index.calculator import Index, Record
from coinspace.index.snapshots import SnapshotReader


class Chosen:
    """The parameters of each asset: configuration, then --params, then single options."""

    def __init__(self, settings: IndexSettings, changes: dict[str, Any]) -> None:
        self._settings = settings
        self._changes = changes
        self._known: dict[str, IndexParameters] = {}

    def __call__(self, asset: str) -> IndexParameters:
        found = self._known.get(asset)
        if found is None:
            base = self._settings.parameters_of(asset).model_dump()
            found = index_parameters({**base, **self._changes}, "parameters")
            self._known[asset] = found
        return found


def read_parameters(path: Path) -> dict[str, Any]:
    """Read a file of parameters, TOML or JSON. Raises: ConfigError."""
    try:
        text = path.read_text()
        values = json.loads(text) if text.lstrip().startswith("{") else tomllib.loads(text)
    except (OSError, ValueError) as error:
        raise ConfigError(f"{path}: expected parameters as TOML or JSON, {error}") from None
    return dict(values)


@click.command("compute-index")
@click.argument("feeds", nargs=-1, type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--snapshots", metavar="FILE|-", help="JSON lines, each one tick with all books")
@click.option("--mode", type=click.Choice(["integral", "grid"]))
@click.option("--spacing", type=float, help="grid step, units of base")
@click.option("--max-spread", type=float, help="D, as a fraction: 0.005 is 0.5 %")
@click.option("--max-deviation", type=float, help="P, as a fraction")
@click.option("--lag-ms", type=float, help="age at which a book is delayed")
@click.option("--min-venues", type=int)
@click.option("--regions", type=click.Choice(["off", "default"]))
@click.option("--depth", type=click.Choice(["full", "coverage"]))
@click.option("--decimals", type=int, help="of the published value")
@click.option("--cap-band", type=float, help="sample of the size cap, as a fraction")
@click.option("--cap-min-per-side", type=int, help="levels of that sample at least")
@click.option("--usd-krw", type=float, help="reference rate for the premium's fiat basis")
@click.option(
    "--params",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="parameters as TOML or JSON; options win over it",
)
@click.option("--explain", metavar="TS", help="print one tick (ms) with its curve, level by level")
@config_option
def compute_index(
    feeds: tuple[Path, ...],
    snapshots: str | None,
    params: Path | None,
    explain: str | None,
    config_path: str | None,
    **options: Any,
) -> None:
    """Compute index records from snapshots of books or from recordings; one JSON line per tick."""
    if bool(feeds) == bool(snapshots):
        raise click.UsageError("expected either --snapshots FILE|- or recordings")
    changes = read_parameters(params) if params else {}
    changes |= {name: value for name, value in options.items() if value is not None}
    settings = load(config_path)
    chosen = Chosen(settings.index, changes)
    # a wrong parameter is an error even where no line follows
    chosen(settings.index.assets[0] if settings.index.assets else "BTC")
    wanted = _instant(explain) if explain is not None else None
    if snapshots is None:
        raise ConfigError("recordings: expected --snapshots in this release")
    found = False
    for record, index in from_snapshots(snapshots, chosen):
        if wanted is None:
            write(record)
        elif record["ts_ms"] == wanted:
            write({**record, **index.explain()})
            found = True
    if wanted is not None and not found:
        raise CoinSpaceError(f"--explain: expected a tick at {explain} ms, found none")


def from_snapshots(path: str, chosen: Chosen) -> Iterator[tuple[Record, Index]]:
    """Yield the record of each line. Raises: SnapshotError naming a line."""
    reader = SnapshotReader(chosen)
    indices: dict[str, Index] = {}
    try:
        stream = sys.stdin.buffer if path == "-" else Path(path).open("rb")  # noqa: SIM115
    except OSError as error:
        raise CoinSpaceError(f"--snapshots {path}: expected a readable file, {error}") from None
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
        click.echo(f"{reader.ignored} books of other assets ignored", err=True)


def write(record: Record) -> None:
    """Write one JSON line to stdout."""
    sys.stdout.buffer.write(orjson.dumps(record, option=orjson.OPT_APPEND_NEWLINE))
    sys.stdout.buffer.flush()


def _instant(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise ConfigError(f"--explain: expected a time in ms, was {text!r}") from None
