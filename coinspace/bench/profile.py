"""`coinspace profile STAGE`: run one stage alone on a feed and show where its time goes.

One pass runs without a profiler, for the rate; the next one under py-spy, which samples Python and
compiled frames.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tempfile
import time
from collections import Counter
from pathlib import Path

import click
import orjson

from coinspace.bench.measure import compare
from coinspace.bench.runs import STAGES, Run, check_writable, feeds_option, prepare, sources
from coinspace.config import config_option, load
from coinspace.errors import CoinSpaceError
from coinspace.log import configure_logging
from coinspace.plain_options import Finite

SAMPLED_S = 4.0
SAMPLES_PER_S = 500
# py-spy reads the symbols of all libraries before its first sample
START_S = 30.0
# from prctl.h: lets a process that is not the parent read this one's memory
PR_SET_PTRACER = 0x59616D61
ANY_PROCESS = ctypes.c_ulong(-1)
# suffix of the flame graph's file -> format of py-spy
FORMATS = {".svg": "flamegraph", ".json": "speedscope"}
# the frame that repeats the stage; the frames outside of it start Python
OUTERMOST = "repeat (coinspace/bench/profile.py"
# file and line of a frame; the line is known where a compiled module has debug information
_PLACE = re.compile(r" \(.*?([^/()]+?)(?::\d+)?\)$")


def repeat(prepared: Run, watcher: subprocess.Popen[str]) -> None:
    """Run the stage until the watcher ends."""
    end = time.monotonic() + START_S + 600
    while watcher.poll() is None and time.monotonic() < end:
        prepared.run()


def sampled(prepared: Run, seconds: float, kind: str, path: Path) -> None:
    """Let py-spy sample this process while the stage runs. Args: kind: py-spy's file format.

    Raises: CoinSpaceError when py-spy is not installed or may not read this process.
    """
    command = shutil.which("py-spy", path=sysconfig.get_path("scripts")) or shutil.which("py-spy")
    if command is None:
        raise CoinSpaceError("py-spy: expected it to be installed: pip install py-spy")
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PTRACER, ANY_PROCESS, 0, 0, 0)
    options = ["--native", "--format", kind, "--rate", str(SAMPLES_PER_S), "--output", str(path)]
    watcher = subprocess.Popen(
        [
            command,
            "record",
            *options,
            "--duration",
            str(max(1, round(seconds))),
            "--pid",
            str(os.getpid()),
        ],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        repeat(prepared, watcher)
    finally:
        with contextlib.suppress(ProcessLookupError):
            watcher.terminate()
        _, errors = watcher.communicate()
    if not path.exists() or not path.stat().st_size:
        lines = [line for line in errors.splitlines() if line.strip()]
        raise CoinSpaceError(f"py-spy: expected samples, {lines[0] if lines else 'found none'}")


def hottest_of(folded: str) -> Counter[str]:
    """Return the samples of each innermost function, `name (file)`, without those of start-up.

    The lines of a function count together.

    Args: folded: py-spy's raw format, `outer;inner count` by line.
    """
    found: Counter[str] = Counter()
    for line in folded.splitlines():
        text, _, count = line.rpartition(" ")
        frames = text.split(";")
        if count.isdigit() and any(frame.startswith(OUTERMOST) for frame in frames[:-1]):
            found[_PLACE.sub(r" (\1)", frames[-1])] += int(count)
    return found


@click.command()
@click.argument("stage", type=click.Choice(list(STAGES)))
@feeds_option
@click.option("--seconds", default=SAMPLED_S, show_default=True, type=Finite(1, 600))
@click.option(
    "--flame",
    type=click.Path(path_type=Path),
    help="file for the flame graph: .svg, .json for speedscope, or folded stacks",
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
    """Run one stage alone on a feed: rate, cost, hottest functions, flame graph."""
    configure_logging("error")
    if flame is not None:
        check_writable(flame)
    prepared = prepare(stage, sources(list(feeds)), load(config_path))
    try:
        slot_ns = round(seconds / 2 * 1e9)
        timing = compare({stage: prepared.run}, events=prepared.events, rounds=1, slot_ns=slot_ns)
        ns = timing.least(stage)
        with tempfile.TemporaryDirectory(prefix="coinspace-") as folder:
            raw = Path(folder) / "stacks.txt"
            sampled(prepared, seconds, "raw", raw)
            hottest = hottest_of(raw.read_text())
            if flame is not None and flame.suffix in FORMATS:
                sampled(prepared, seconds, FORMATS[flame.suffix], flame)
            elif flame is not None:
                shutil.copyfile(raw, flame)
    finally:
        prepared.close()
    samples = hottest.total()
    if as_json:
        body = {
            "stage": stage,
            "input": prepared.input,
            "unit": prepared.unit,
            "events": prepared.events,
            "ns": ns,
            "per_second": 1e9 / ns,
            "samples": samples,
            "hottest": [{"function": k, "samples": n} for k, n in hottest.most_common(top)],
        }
        click.echo(orjson.dumps(body))
        return
    click.echo(f"{stage} on {prepared.input}")
    click.echo(
        f"{1e9 / ns:,.0f} {prepared.unit}s/s, {ns:,.0f} ns a {prepared.unit},"
        f" {prepared.events:,} {prepared.unit}s"
    )
    click.echo(f"\nhottest functions ({samples} samples, {SAMPLES_PER_S} a second):")
    for name, count in hottest.most_common(top):
        click.echo(f"  {100 * count / samples:5.1f} %  {name}")
