"""The commands `simulate` and `replay`."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import click
import orjson
import uvloop

from coinspace.errors import ConfigError, FeedError
from coinspace.log import configure_logging
from coinspace.options import EXCHANGE, markets_by_exchange
from coinspace.plain_options import FACTOR, PORT, SECONDS, Finite
from coinspace.process import die_with_parent, stop_event
from coinspace.recording.format import LAST_NS, first_ns
from coinspace.simulator import faults as faults_module
from coinspace.simulator.markets.engine import DEFAULT_MARKETS, START_NS, USUAL_MARKETS
from coinspace.simulator.markets.scenario import SCENARIOS
from coinspace.simulator.markets.whole import whole_exchanges
from coinspace.simulator.server import ExchangeServer, ready_line
from coinspace.simulator.simulation import Simulation

FEED_SUFFIX = ".feed.zst"


async def serve(server: ExchangeServer, duration_s: float | None = None) -> None:
    """Serve until SIGTERM, SIGINT or the duration is over; print one JSON line when ready.

    Raises: FeedError when a task failed that the server needs.
    """
    stopping = stop_event(duration_s)
    async with server:
        click.echo(orjson.dumps(ready_line(server)))
        server.on_failure = stopping.set
        if server.failure is None:
            await stopping.wait()
    if server.failure is not None:
        raise FeedError(f"the server failed: {server.failure or type(server.failure).__name__}")


def _with_faults(command: click.Command) -> click.Command:
    # the grammar has one text, in the module that parses it
    grammar = (faults_module.__doc__ or "").partition("\n")[2]
    command.epilog = "\b\nFaults, KIND:EXCHANGE[:SYMBOL][:key=value]…" + grammar.replace(
        "\n\n", "\n\n\b\n"
    )
    return command


@_with_faults
@click.command()
@click.option("--seed", default=0, show_default=True, help="same seed, same bytes")
@click.option("--host", default="127.0.0.1", show_default=True, help="address to listen on")
@click.option("--port", default=0, type=PORT, show_default=True, help="0 = any free port")
@click.option(
    "--rate", default=1.0, type=FACTOR, show_default=True, help="factor of orders and trades"
)
@click.option("--exchange", "exchanges", multiple=True, type=EXCHANGE)
@click.option("--market", "markets", multiple=True, help="BTC/KRW or binance:BTC/USDT")
@click.option(
    "--markets",
    "offered",
    type=click.Choice(["all"]),
    help="whole exchanges at their real rates: 1,219 markets, 6,500 frames a second",
)
@click.option("--no-limits", is_flag=True, help="do not limit rates as the exchanges do")
@click.option("--fault", "faults", multiple=True, help="KIND:EXCHANGE[:SYMBOL][:key=value]…")
@click.option("--scenario", type=click.Choice(sorted(SCENARIOS)), help="prices and faults in time")
@click.option("--compress", type=FACTOR, help="speed factor of the scenario")
@click.option("--record", "record_path", type=click.Path(path_type=Path), help="write feeds")
@click.option("--force", is_flag=True, help="with --record: overwrite")
@click.option("--groups", is_flag=True, help="with --record: price groups beside the books")
@click.option("--duration", type=SECONDS, help="seconds; needed with --record")
@click.option("--start", type=click.IntRange(1, LAST_NS), help="with --record: ns since the epoch")
def simulate(
    seed: int,
    host: str,
    port: int,
    rate: float,
    exchanges: tuple[str, ...],
    markets: tuple[str, ...],
    offered: str | None,
    no_limits: bool,
    faults: tuple[str, ...],
    scenario: str | None,
    compress: float | None,
    record_path: Path | None,
    force: bool,
    groups: bool,
    duration: float | None,
    start: int | None,
) -> None:
    """Serve simulated exchanges, or write their feeds with --record.

    Prints one JSON line with the addresses when it is ready. --record NAME.feed.zst (or NAME)
    writes NAME-EXCHANGE.feed.zst for each exchange, or NAME.feed.zst for a single exchange. The
    bytes of feeds depend only on seed, markets, rate, scenario, start and duration.
    """
    configure_logging()
    whole = whole_exchanges() if offered else None
    chosen = markets_by_exchange(exchanges, markets) if markets else {}
    usual = whole.markets if whole else USUAL_MARKETS
    if whole or not markets:
        for name in exchanges or DEFAULT_MARKETS:
            chosen[name] = list(dict.fromkeys([*usual.get(name, ()), *chosen.get(name, ())]))
    patterns = [text for text in markets if "*" in text]
    if patterns:
        raise ConfigError(f"--market: expected markets such as BTC/KRW, was {', '.join(patterns)}")
    course = replace(SCENARIOS[scenario], compress=compress or 1.0) if scenario else None
    if compress is not None and course is None:
        raise ConfigError("--compress: expected --scenario with it")
    if whole and (course or record_path):
        raise ConfigError(
            "--markets all: expected no --scenario or --record with it; name markets by --market"
        )
    if record_path is not None:
        from coinspace.simulator.simulated_feed import feed_paths, write_feeds

        if duration is None:
            raise ConfigError("--record: expected --duration SECONDS with it")
        if faults or no_limits or port:
            raise ConfigError(
                "--record: expected no --fault, --no-limits or --port with it; they need a server"
            )
        if not record_path.name.endswith((FEED_SUFFIX, ".feed")):
            record_path = record_path.with_name(f"{record_path.name}{FEED_SUFFIX}")
        there = [one for one in feed_paths(record_path, chosen).values() if one.exists()]
        if there and not force:
            raise ConfigError(
                f"{', '.join(map(str, there))}: expected no file there; --force overwrites it"
            )
        for line in write_feeds(
            record_path,
            seed,
            chosen,
            duration_s=duration,
            start_ns=start or START_NS,
            rate=rate,
            scenario=course,
            groups=groups,
        ):
            click.echo(orjson.dumps(line))
        return
    if start is not None or force or groups:
        raise ConfigError("--start, --force and --groups: expected --record with them")
    die_with_parent()
    source = Simulation(seed, chosen, rate=rate, scenario=course, whole=whole)
    server = ExchangeServer(source, host=host, port=port, limits=not no_limits, faults=faults)
    uvloop.run(serve(server, duration))


def _speed(ctx: click.Context, parameter: click.Parameter, text: str) -> float:
    if text == "max":
        return math.inf
    try:
        speed = float(text)
    except ValueError:
        speed = 0.0
    if not speed > 0:
        raise click.BadParameter(f"expected a number above 0 or max, was {text!r}")
    return speed


@_with_faults
@click.command()
@click.argument("feeds", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option("--speed", default="1", show_default=True, callback=_speed, help="factor, or max")
@click.option("--loop", is_flag=True, help="start again at the end and close connections")
@click.option(
    "--clients",
    default=0,
    type=click.IntRange(0, 1000),
    help="play all feeds on one clock once N clients have subscribed",
)
@click.option(
    "--skip",
    default=0.0,
    type=Finite(min=0, max=1e9),
    help="seconds of the feeds to skip at the beginning",
)
@click.option("--take", type=SECONDS, help="seconds of the feeds to play")
@click.option("--port", default=0, type=PORT, show_default=True, help="0 = any free port")
@click.option("--no-limits", is_flag=True, help="do not limit rates as the exchanges do")
@click.option("--fault", "faults", multiple=True, help="KIND:EXCHANGE[:SYMBOL][:key=value]…")
def replay(
    feeds: tuple[Path, ...],
    speed: float,
    loop: bool,
    clients: int,
    skip: float,
    take: float | None,
    port: int,
    no_limits: bool,
    faults: tuple[str, ...],
) -> None:
    """Serve recordings as the exchange would.

    A client gets the recorded frames of its subscriptions. Without --clients, each set of
    subscriptions is played once, and a client that reconnects continues there. With --clients N,
    all feeds run on one clock. Prints one JSON line when ready and one at the end of each run.
    """
    from coinspace.simulator.playback import Playback

    configure_logging()
    start_ns, end_ns = 0, None
    if skip or take is not None:
        start_ns = min(map(first_ns, feeds)) + int(skip * 1e9)
        end_ns = None if take is None else start_ns + int(take * 1e9)
    source = Playback(
        feeds,
        speed=speed,
        clients=clients,
        loop=loop,
        start_ns=start_ns,
        end_ns=end_ns,
        on_finish=lambda facts: click.echo(orjson.dumps(facts)),
    )
    if not source.has_frames():
        raise ConfigError(
            f"replay: expected frames in the chosen part of {', '.join(map(str, feeds))}, found"
            " none; `coinspace feed info` shows how long a feed is"
        )
    uvloop.run(serve(ExchangeServer(source, port=port, limits=not no_limits, faults=faults)))
