"""`coinspace bench`: what each stage costs on this machine; `bench compare`: two runs."""

from __future__ import annotations

import contextlib
import platform
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import click
import orjson
from rich.console import Console
from rich.table import Table

from coinspace import __version__
from coinspace.bench.measure import OURS, compare
from coinspace.bench.peers import PEERS
from coinspace.bench.runs import STAGES, Feed, Run, check_writable, feeds_option, prepare, sources
from coinspace.bench.table import Line, cost, judged, table
from coinspace.config import Settings, config_option, load
from coinspace.errors import CoinSpaceError
from coinspace.log import configure_logging

ROUNDS = 7
# a round shorter than this measures the clock
ROUND_NS = 200_000_000


@dataclass(frozen=True, slots=True)
class Measured:
    """A stage's cost: CPU time of this thread per event in ns, least and median of the rounds.

    peer: the library that did the same work in the same rounds; ratio: of its cost to ours.
    """

    stage: str
    input: str
    unit: str
    events: int
    ns: float
    median_ns: float
    per_second: float
    peer: str = ""
    peer_ns: float | None = None
    ratio: float | None = None

    def line(self) -> Line:
        """Return the stage's line of the table."""
        stage, ours = f"{self.stage} (per {self.unit})", cost(self.median_ns)
        if self.ratio is None or self.peer_ns is None:
            return Line(stage, ours)
        peer = PEERS[self.stage]
        bounds = peer.gate, peer.goal
        verdict = judged(self.ratio, *bounds)
        return Line(stage, ours, f"{self.peer}, {cost(self.peer_ns)}", self.ratio, *bounds, verdict)


def measure(prepared: Run, rounds: int = ROUNDS, beside: Run | None = None) -> Measured:
    """Measure a stage in rounds, and a library's run beside it."""
    stage = prepared.stage
    runs = {OURS: prepared.run}
    # a peer that cannot read all the events would look faster than it is
    if beside is not None and beside.events == prepared.events:
        runs[PEERS[stage].name] = beside.run
    timing = compare(runs, events=prepared.events, rounds=rounds, slot_ns=ROUND_NS // len(runs))
    ns = timing.least(OURS)
    found = Measured(
        stage, prepared.input, prepared.unit, prepared.events, ns, timing.median(OURS), 1e9 / ns
    )
    for peer in runs.keys() - {OURS}:
        return replace(found, peer=peer, peer_ns=timing.median(peer), ratio=timing.ratio(peer))
    return found


def measured(stage: str, found: list[Feed], settings: Settings, rounds: int) -> Measured:
    """Prepare a stage and its peer, measure them, and close them."""
    with contextlib.ExitStack() as stack:
        prepared = prepare(stage, found, settings)
        stack.callback(prepared.close)
        beside = PEERS[stage].prepare(found, settings) if stage in PEERS else None
        if beside is not None:
            stack.callback(beside.close)
        return measure(prepared, rounds, beside)


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
        click.echo(f"{stage} …", err=True)
        results.append(measured(stage, found, settings, rounds))
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
    Console().print(table((one.line() for one in results), results[0].input))
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
    shown = Table()
    shown.add_column("stage")
    for name in ("before ns", "after ns", "change"):
        shown.add_column(name, justify="right")
    slower = []
    for stage in dict.fromkeys([*old, *new]):
        if stage not in old or stage not in new:
            figures = [f"{file[stage]['ns']:,.0f}" if stage in file else "" for file in (old, new)]
            shown.add_row(stage, *figures, "not measured" if stage in old else "new")
            continue
        one = new[stage]
        change = one["ns"] / old[stage]["ns"] - 1
        if fail is not None and change * 100 > fail:
            slower.append(stage)
        same = one["input"] == old[stage]["input"]
        shown.add_row(
            stage,
            f"{old[stage]['ns']:,.0f}",
            f"{one['ns']:,.0f}",
            f"{change:+.1%}" + ("" if same else " (other input)"),
        )
    Console().print(shown)
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
