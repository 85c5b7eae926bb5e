"""Commands `simulate`, `replay`, `record`, `feed`."""

from __future__ import annotations

import asyncio
import signal
from pathlib import Path

import click
import orjson
import uvloop

from coinspace.config import EXCHANGES
from coinspace.errors import ConfigError
from coinspace.feed.server import ExchangeServer, ready_line
from coinspace.feed.simulation import Simulation
from coinspace.feed.simulator.engine import DEFAULT_MARKETS, START_NS
from coinspace.process import configure_logging


async def serve(server: ExchangeServer, duration_s: float | None = None) -> None:
    """Serve until SIGTERM, SIGINT or the duration is over; print one JSON line when ready."""
    stopping = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopping.set)
    if duration_s is not None:
        loop.call_later(duration_s, stopping.set)
    async with server:
        click.echo(orjson.dumps(ready_line(server)))
        await stopping.wait()


def chosen_markets(exchanges: tuple[str, ...], markets: tuple[str, ...]) -> dict[str, list[str]]:
    """Return exchange -> markets of the options; a market may be bound to an exchange with `:`.

    Raises: ConfigError when nothing is left.
    """
    chosen: dict[str, list[str]] = {}
    for exchange in exchanges or EXCHANGES:
        if not markets:
            chosen[exchange] = list(DEFAULT_MARKETS[exchange])
            continue
        for text in markets:
            venue, colon, market = text.rpartition(":")
            won = market.endswith("/KRW")
            if venue == exchange or (not colon and won == (exchange != "binance")):
                chosen.setdefault(exchange, []).append(market)
    if not chosen:
        raise ConfigError(
            "markets: expected some for upbit, bithumb or binance, such as BTC/KRW or"
            f" binance:BTC/USDT, was {', '.join(markets)}"
        )
    return chosen


@click.command()
@click.option("--seed", default=0, show_default=True, help="fixes every byte")
@click.option("--port", default=0, show_default=True, help="0 = any free port")
@click.option("--rate", default=1.0, show_default=True, help="orders and trades, as a multiple")
@click.option("--exchange", "exchanges", multiple=True, type=click.Choice(EXCHANGES))
@click.option("--market", "markets", multiple=True, help="BTC/KRW or binance:BTC/USDT; default set")
@click.option("--no-limits", is_flag=True, help="do not limit rates as the exchanges do")
@click.option("--record", "record_path", type=click.Path(path_type=Path), help="write feeds")
@click.option("--duration", type=float, help="seconds; needed with --record")
@click.option("--start", default=START_NS, show_default=True, help="with --record: ns since epoch")
def simulate(
    seed: int,
    port: int,
    rate: float,
    exchanges: tuple[str, ...],
    markets: tuple[str, ...],
    no_limits: bool,
    record_path: Path | None,
    duration: float | None,
    start: int,
) -> None:
    """Serve simulated exchanges, or write their feeds with --record.

    Prints one JSON line with the addresses when it is ready. A feed holds one connection, so
    --record NAME.feed.zst writes NAME-EXCHANGE.feed.zst for each exchange (NAME.feed.zst itself
    with a single --exchange). Its bytes are fixed by seed, markets, rate, start and duration.
    """
    configure_logging()
    chosen = chosen_markets(exchanges, markets)
    if record_path is not None:
        from coinspace.feed.simulated_feed import write_feeds

        if duration is None or duration <= 0:
            raise ConfigError("--record: expected --duration SECONDS above 0 with it")
        for line in write_feeds(
            record_path, seed, chosen, duration_s=duration, start_ns=start, rate=rate
        ):
            click.echo(orjson.dumps(line))
        return
    source = Simulation(seed, chosen, rate=rate)
    server = ExchangeServer(source, port=port, limits=not no_limits)
    uvloop.run(serve(server, duration))
