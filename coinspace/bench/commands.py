"""`coinspace bench`: what each stage costs on this machine; `bench compare`: two runs."""

from __future__ import annotations

import platform
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import click
import orjson
from rich.console import Console
from rich.table import Table

from coinspace import __version__
from coinspace.bench.measure import compare
from coinspace.bench.runs import STAGES, Run, check_writable, feeds_option, prepare, sources
from coinspace.config import config_option, load
from coinspace.errors import CoinSpaceError
from coinspace.log import configure_logging

ROUNDS = 7
# a round shorter than this measures the clock
ROUND_NS = 200_000_000


@dataclass(frozen=True, slots=True)
class Measured:
    """A stage's cost: CPU time of this thread per event in ns, least and median of the rounds."""

    stage: str
    input: str
    unit: str
    events: int
    ns: float
    median_ns: float
    per_second: float


def measure(prepared: Run, rounds: int = ROUNDS) -> Measured:
    """Measure a stage in rounds."""
    stage = prepared.stage
    timing = compare({stage: prepared.run}, events=prepared.events, rounds=rounds, slot_ns=ROUND_NS)
    ns = timing.least(stage)
    return Measured(
        stage, prepared.input, prepared.unit, prepared.events, ns, timing.median(stage), 1e9 / ns
    )


@click.group(invoke_without_command=True)
@click.option("--stage", "stages", multiple=True, type=click.Choice(list(STAGES)))
@feeds_option
@click.option("--rounds", default=ROUNDS, show_default=True, type=click.IntRange(1, 1000))
@click.option("--json", "output", type=click.Path(path_type=Path), help="file to write, - = stdout")
@config_option
@click.pass_context
def bench(
    context: click.Context,
    stages: tuple[str, ...],
    feeds: tuple[Path, ...],
    rounds: int,
    output: Path | None,
    config_path: str | None,
) -> None:
    """Measure the stages on this machine, each alone and then end to end."""
    if context.invoked_subcommand is not None:
        return
    # the stages log each state, in every pass
    configure_logging("error")
    settings = load(config_path)
    to_stdout = output is not None and str(output) == "-"
    if output is not None and not to_stdout:
        check_writable(output)
    found = sources(list(feeds))
    results = []
    for stage in stages or STAGES:
        prepared = prepare(stage, found, settings)
        try:
            results.append(measure(prepared, rounds))
        finally:
            prepared.close()
    body = {
        "version": __version__,
        "machine": f"{platform.machine()} {platform.system()} {platform.release()}",
        "python": platform.python_version(),
        "date": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "rounds": rounds,
        "results": [asdict(one) for one in results],
    }
    written = orjson.dumps(body, option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE)
    if to_stdout:
        click.echo(written, nl=False)
        return
    table = Table(caption=results[0].input if results else None)
    table.add_column("stage")
    for name in ("ns", "median ns", "per second", "events"):
        table.add_column(name, justify="right")
    for one in results:
        table.add_row(
            f"{one.stage} (per {one.unit})",
            f"{one.ns:,.0f}",
            f"{one.median_ns:,.0f}",
            f"{one.per_second:,.0f}",
            f"{one.events:,}",
        )
    Console().print(table)
    if output is not None:
        output.write_bytes(written)


@bench.command("compare")
@click.argument("before", type=click.Path(path_type=Path))
@click.argument("after", type=click.Path(path_type=Path))
@click.option(
    "--fail", type=float, help="exit 1 when a stage is slower by more than this percentage"
)
def compare_files(before: Path, after: Path, fail: float | None) -> None:
    """Compare two files of `bench --json`, taken on the same machine."""
    old, new = (_read(path) for path in (before, after))
    if not old.keys() & new.keys():
        raise CoinSpaceError(
            f"expected a stage that both files have, was {', '.join(old) or 'none'} in {before},"
            f" {', '.join(new) or 'none'} in {after}"
        )
    table = Table()
    table.add_column("stage")
    for name in ("before ns", "after ns", "change"):
        table.add_column(name, justify="right")
    slower = []
    for stage in dict.fromkeys([*old, *new]):
        if stage not in old or stage not in new:
            figures = [f"{file[stage]['ns']:,.0f}" if stage in file else "" for file in (old, new)]
            table.add_row(stage, *figures, "not measured" if stage in old else "new")
            continue
        one = new[stage]
        change = one["ns"] / old[stage]["ns"] - 1
        if fail is not None and change * 100 > fail:
            slower.append(stage)
        same = one["input"] == old[stage]["input"]
        table.add_row(
            stage,
            f"{old[stage]['ns']:,.0f}",
            f"{one['ns']:,.0f}",
            f"{change:+.1%}" + ("" if same else " (other input)"),
        )
    Console().print(table)
    if slower:
        raise CoinSpaceError(f"slower by more than {fail:g} %: {', '.join(slower)}")
    missing = [stage for stage in old if stage not in new]
    if fail is not None and missing:
        raise CoinSpaceError(f"{after}: expected every stage of {before}, no {', '.join(missing)}")


def _read(path: Path) -> dict[str, dict[str, Any]]:
    try:
        found = {one["stage"]: one for one in orjson.loads(path.read_bytes())["results"]}
        for one in found.values():
            if not isinstance(one["input"], str) or not one["ns"] > 0:
                raise ValueError(f"{one['stage']}: input {one['input']!r}, ns {one['ns']!r}")
    except OSError as error:
        raise CoinSpaceError(f"{path}: expected a readable file, {error.strerror}") from None
    except (KeyError, TypeError, ValueError) as error:
        raise CoinSpaceError(
            f"{path}: expected a file of `coinspace bench --json`, {error!r}"
        ) from None
    return found
