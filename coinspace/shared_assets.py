"""`coinspace assets`: which assets the patterns of `index.assets` mean.

The lists of the exchanges say which markets an asset has. The numbers of its venues are kept in the
data folder, so that every process and every command means the same assets until the next update.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence

import click
import orjson

from coinspace import constituents
from coinspace.clock import now_ns
from coinspace.collector.tools.listing import listed
from coinspace.config import Settings, collects, config_option, keep_venues, load
from coinspace.exchanges.exchange import Listing


async def find_venues(settings: Settings) -> dict[str, int]:
    """Ask the exchanges for their markets; return asset -> number of its venues.

    Raises: ConnectError naming an exchange that does not answer.
    """
    names = settings.collected
    lists = await asyncio.gather(*(listed(name, settings.exchanges[name]) for name in names))
    return venues_of(settings, dict(zip(names, lists, strict=True)), now_ns())


def venues_of(
    settings: Settings, lists: Mapping[str, Sequence[Listing]], at_ns: int
) -> dict[str, int]:
    """Return asset -> number of its markets that are collected, traded and constituents."""
    markets = (
        (exchange, one.market)
        for exchange, listings in lists.items()
        for one in listings
        if one.trading and collects(settings, exchange, str(one.market))
    )
    return constituents.venues_of(settings.index, markets, at_ns)


def update(settings: Settings) -> None:
    """Ask the exchanges, keep the answer and use it. Raises: CoinSpaceError."""
    venues = asyncio.run(find_venues(settings))
    keep_venues(settings.data, venues)
    settings.index.share(venues)


@click.command()
@click.option("--update", "asks", is_flag=True, help="ask the exchanges which markets they have")
@click.option("--json", "as_json", is_flag=True, help="one JSON line per asset")
@config_option
def assets(asks: bool, as_json: bool, config_path: str | None) -> None:
    """List the assets that have an index, with the interval of their ticks.

    Patterns in index.assets, such as "*", mean the assets with at least index.minimum_venues
    venues, one of them in each region. `coinspace up` asks the exchanges at its start. A running
    platform adds assets that become listed, and keeps the others.
    """
    settings = load(config_path)
    if asks:
        update(settings)
    index = settings.index
    for asset in index.assets:
        interval_ms = index.interval_ms_of(asset)
        if as_json:
            click.echo(orjson.dumps({"asset": asset, "interval_ms": interval_ms}))
        else:
            click.echo(f"{asset:<12} {interval_ms} ms" if interval_ms else f"{asset:<12} updates")
