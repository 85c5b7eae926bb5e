"""`coinspace profile STAGE`: one stage alone on a feed, and where its time goes.

Three passes, so that none disturbs another: unwatched for the rate, with counted allocations, and
with the stack sampled at full speed, which shows compiled functions by name. Python functions are
counted in a fourth pass under cProfile.
"""

from __future__ import annotations

import cProfile
import pstats
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import orjson

from coinspace._ext import sampler
from coinspace.config import config_option, load
from coinspace.observe.flame import Stack, flame_graph, folded
from coinspace.observe.runs import STAGES, Run, check_writable, prepare, sources
from coinspace.observe.symbols import Symbols
from coinspace.options import Finite
from coinspace.process import configure_logging

# long enough for a thousand samples and more
SAMPLED_S = 2.0
INTERVAL_US = 500
# frames of the interpreter that only carry a call on
CARRIERS = ("_PyObject_", "PyObject_", "_PyEval_Vector", "_PyFunction_", "method_vectorcall")


def rate(prepared: Run, seconds: float) -> tuple[float, int]:
    """Return (CPU ns per event, passes that fit into the time)."""
    prepared.run()
    passes, start = 0, time.thread_time_ns()
    end = time.monotonic() + seconds
    while passes == 0 or time.monotonic() < end:
        prepared.run()
        passes += 1
    return (time.thread_time_ns() - start) / passes / prepared.events, passes


def sampled(prepared: Run, passes: int) -> tuple[list[Stack], int]:
    """Return the named stacks of so many passes, and how many were lost."""

    def run() -> None:
        for _ in range(passes):
            prepared.run()

    stacks, lost = sampler.sample(run, INTERVAL_US)
    symbols = Symbols()
    named = [tuple(symbols.name(address) for address in stack) for stack in stacks]
    return [tuple(shortened(stack)) for stack in named], lost


def shortened(stack: Stack) -> Iterator[str]:
    """Yield a stack without what starts Python and without frames that only carry calls on."""
    # everything outside the sampler's call is the same in all stacks
    start = next(
        (at for at, name in enumerate(stack) if name.startswith("coinspace._ext.sampler")), -1
    )
    previous = ""
    for name in stack[start + 1 :]:
        if name.startswith(CARRIERS) or name == previous:
            continue
        previous = name
        yield name


def python_functions(prepared: Run) -> list[dict[str, Any]]:
    """Return the Python functions of one pass that took the longest themselves."""
    profiler = cProfile.Profile()
    profiler.enable()
    prepared.run()
    profiler.disable()
    found = []
    entries: dict[Any, Any] = pstats.Stats(profiler).stats  # type: ignore[attr-defined]
    for (file, line, name), (_, calls, own, whole, _) in entries.items():
        place = f"{Path(file).name}:{line} {name}" if line else name
        found.append({"function": place, "calls": calls, "own_s": own, "whole_s": whole})
    return sorted(found, key=lambda one: -one["own_s"])


@click.command()
@click.argument("stage", type=click.Choice(list(STAGES)))
@click.option(
    "--feed",
    "feeds",
    multiple=True,
    type=click.Path(path_type=Path),
    help="recording to run on; default: 10 s of simulated exchanges",
)
@click.option("--seconds", default=SAMPLED_S, show_default=True, type=Finite(0.1, 600))
@click.option(
    "--flame",
    type=click.Path(path_type=Path),
    help="file for the flame graph: .svg, or folded stacks for other tools",
)
@click.option(
    "--top",
    default=15,
    show_default=True,
    type=click.IntRange(1, 1000),
    help="functions to list",
)
@click.option("--json", "as_json", is_flag=True, help="one JSON object on stdout")
@config_option
def profile(
    stage: str,
    feeds: tuple[Path, ...],
    seconds: float,
    flame: Path | None,
    top: int,
    as_json: bool,
    config_path: str | None,
) -> None:
    """Run one stage alone on a feed: rate, cost, allocations, hottest functions, flame graph."""
    configure_logging("error")
    if flame is not None:
        check_writable(flame)
    prepared = prepare(stage, sources(list(feeds)), load(config_path))
    try:
        ns, passes = rate(prepared, seconds / 2)
        allocations = sampler.count_allocations(prepared.run) / prepared.events
        stacks: list[Stack] = []
        lost = 0
        if sampler.SUPPORTED:
            stacks, lost = sampled(prepared, max(1, round(passes * 2)))
        functions = python_functions(prepared)[:top]
    finally:
        prepared.close()
    hottest = Counter(stack[-1] for stack in stacks if stack).most_common(top)
    if flame is not None:
        title = f"{stage} on {prepared.input}"
        flame.write_text(flame_graph(stacks, title) if flame.suffix == ".svg" else folded(stacks))
    if as_json:
        body = {
            "stage": stage,
            "input": prepared.input,
            "unit": prepared.unit,
            "events": prepared.events,
            "ns": ns,
            "per_second": 1e9 / ns,
            "allocations": allocations,
            "samples": len(stacks),
            "samples_lost": lost,
            "hottest": [{"function": name, "samples": count} for name, count in hottest],
            "python": functions,
        }
        click.echo(orjson.dumps(body))
        return
    click.echo(f"{stage} on {prepared.input}")
    click.echo(
        f"{1e9 / ns:,.0f} {prepared.unit}s/s, {ns:,.0f} ns and {allocations:.2f} allocations a"
        f" {prepared.unit}, {prepared.events:,} {prepared.unit}s"
    )
    if stacks:
        click.echo(f"\nwhere the processor was ({len(stacks)} samples, each {INTERVAL_US} µs):")
        for name, count in hottest:
            click.echo(f"  {100 * count / len(stacks):5.1f} %  {name}")
    click.echo("\nPython functions by their own time (cProfile, which slows them):")
    for one in functions:
        click.echo(f"  {one['own_s'] * 1e3:9.2f} ms  {one['calls']:9,}  {one['function']}")
