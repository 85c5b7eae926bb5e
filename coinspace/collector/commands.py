"""Commands `books`, `markets`, `probe` and `record`."""

from __future__ import annotations

import asyncio
import logging
import sys
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click
import orjson
import structlog
import uvloop

from coinspace.collector.tools.checker import Checked, FeedBooks, symbols_of
from coinspace.collector.tools.listing import check_offered, listed
from coinspace.config import config_option, load
from coinspace.errors import CoinSpaceError, ConfigError, ConnectError, FeedError
from coinspace.exchanges import EXCHANGES, every
from coinspace.exchanges import exchange as exchange_named
from coinspace.exchanges.exchange import Channel, Exchange
from coinspace.log import configure_logging
from coinspace.market import Market, as_named
from coinspace.options import EXCHANGE, markets_by_exchange
from coinspace.plain_options import SECONDS
from coinspace.process import stop_event
from coinspace.recording.format import FeedReader
from coinspace.recording.progress import elapsing, reading
from coinspace.text import json_line, printable

# channels that `record` can record
RECORDED = ("orderbook", "ticker", "trade")
# what `probe` asks besides exchanges: the sources of USD/KRW
RATES = "usd-krw"
PROBED = click.Choice((*EXCHANGES, RATES), case_sensitive=False)


def write_line(line: dict[str, Any]) -> None:
    sys.stdout.buffer.write(json_line(line, orjson.OPT_APPEND_NEWLINE))


def named_symbols(exchange: Exchange, markets: Iterable[str]) -> dict[str, str]:
    """Return symbol -> market, without patterns such as `*/KRW`."""
    return {exchange.symbol_of(Market.parse(text)): text for text in markets if "*" not in text}


def quiet_logs(level: int = logging.ERROR) -> None:
    """Log nothing below `level`: state changes of the stages would hide the output."""
    structlog.configure(
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
    )


@click.command()
@click.argument("feeds", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option("--final", is_flag=True, help="print the whole books at the end of each feed")
@click.option("--check", is_flag=True, help="compare with the feed's bookTicker events")
@click.option("--quiet", is_flag=True, help="no line per update")
@click.option("--markets", default="", help="names for symbols such as BTCUSDT: BTC/USDT,…")
@config_option
def books(
    feeds: tuple[Path, ...],
    final: bool,
    check: bool,
    quiet: bool,
    markets: str,
    config_path: str | None,
) -> None:
    """Print the best prices of a feed after each book update, one JSON line per update.

    bids and asks are numbers of levels. --check compares each update with the newest bookTicker
    event whose id is not above the update's id. A last line per feed then counts matches,
    mismatches, gaps and crossed books. The exit code is 1 when there is a mismatch, a gap or a
    crossed book, or when nothing was compared. A feed without a book update is an error.
    """
    quiet_logs()
    settings = load(config_path)
    total = Checked()
    given = [as_named(text.strip()) for text in markets.split(",") if text.strip()]
    unknown = dict.fromkeys(text for text in given if "*" not in text)
    for path in feeds:
        with FeedReader(path) as reader, reading([reader], f"read {path.name}"):
            exchange = exchange_named(reader.exchange)
            symbols = symbols_of(exchange, reader)
        named = named_symbols(exchange, settings.exchanges[exchange.NAME].markets)
        if exchange.NAMED_SYMBOLS:
            named |= named_symbols(exchange, given)
            for symbol in symbols:
                unknown.pop(named.get(symbol, ""), None)
        rebuilt = FeedBooks(
            exchange,
            symbols,
            named,
            (lambda line: None) if quiet else write_line,
            check=check,
            on_mismatch=lambda line: click.echo(f"mismatch: {printable(line)}", err=True),
        )
        with FeedReader(path) as reader, reading([reader], f"rebuild {path.name}"):
            result = rebuilt.run(reader)
        if final:
            for line in rebuilt.final():
                write_line(line)
        if check:
            write_line({"feed": path.name, **asdict(result)})
        total.add(result)
    if check and len(feeds) > 1:
        write_line({"feed": "all", **asdict(total)})
    sys.stdout.buffer.flush()
    click.echo(
        f"{total.updates} updates, {total.gaps} gaps, {total.crossed} crossed,"
        f" {total.malformed} malformed frames"
        + (
            f"; bookTicker: {total.matches} matches, {total.mismatches} mismatches,"
            f" {total.unchecked} not compared"
            if check
            else ""
        ),
        err=True,
    )
    if unknown:
        asked = " or ".join(one.NAME.capitalize() for one in every() if one.NAMED_SYMBOLS)
        raise ConfigError(
            f"--markets: expected markets of the feeds, found no {asked} frame of"
            f" {', '.join(unknown)}"
        )
    if not total.updates:
        raise FeedError("books: expected order book updates in the feeds, found none")
    if check and not total.matches + total.mismatches:
        raise FeedError("--check: expected bookTicker events in the feeds, found none to compare")
    if check and (total.mismatches or total.gaps or total.crossed):
        raise SystemExit(1)


@click.command()
@click.argument("exchange", type=EXCHANGE)
@click.option("--json", "as_json", is_flag=True, help="one JSON line per market")
@config_option
def markets(exchange: str, as_json: bool, config_path: str | None) -> None:
    """List the markets of an exchange."""
    listings = asyncio.run(listed(exchange, load(config_path).exchanges[exchange]))
    if not listings:
        raise ConnectError(f"market list of {exchange}: expected markets, was empty")
    for line in market_lines(listings, as_json):
        click.echo(line)


def market_lines(listings: Iterable[Any], as_json: bool) -> Iterator[str]:
    """Return a list of markets as lines, sorted by quote and base."""
    for listing in sorted(listings, key=lambda one: (one.market.quote, one.market.base)):
        if as_json:
            yield json_line(
                {
                    "market": str(listing.market),
                    "symbol": listing.symbol,
                    "trading": listing.trading,
                    "detail": listing.detail,
                }
            ).decode()
        else:
            state = "" if listing.trading else "  halted"
            symbol, detail = printable(listing.symbol), printable(listing.detail)
            yield f"{listing.market!s:<20} {symbol:<20} {detail}{state}".rstrip()


@click.command()
@click.argument("names", nargs=-1, type=PROBED, metavar="[EXCHANGE|usd-krw]...")
@click.option(
    "--seconds",
    default=30.0,
    type=SECONDS,
    show_default=True,
    help="time for which each exchange is watched",
)
@click.option("--json", "as_json", is_flag=True, help="one JSON line per fact")
@config_option
def probe(names: tuple[str, ...], seconds: float, as_json: bool, config_path: str | None) -> None:
    """Check on the exchanges, and on the sources of USD/KRW, the facts that the code relies on.

    Prints pass, fail or unseen for each fact. The exit code is 1 when one fails or none passes.
    """
    from coinspace.collector.tools.probe import run_probe
    from coinspace.rates import probe as rates

    settings = load(config_path)
    quiet_logs(logging.CRITICAL)
    failed = passed = 0

    def show(kind: str, name: str, fact: Mapping[str, str]) -> None:
        nonlocal failed, passed
        failed += fact["verdict"] == "fail"
        passed += fact["verdict"] == "pass"
        click.echo(
            json_line({kind: name, **fact})
            if as_json
            else f"{fact['verdict']:<7} {name:<8} {fact['name']}: {printable(fact['detail'])}"
        )

    for name in names or (*EXCHANGES, *([RATES] if settings.rates.sources else [])):
        if name == RATES:
            for one in asyncio.run(rates.run_probe(settings.rates)):
                facts = one._asdict()
                show("source", facts.pop("source"), facts)
            continue
        for fact in asyncio.run(run_probe(name, settings.exchanges[name], seconds)):
            show("exchange", name, asdict(fact))
    if failed or not passed:
        raise SystemExit(1)


@click.command()
@config_option
@click.option("--exchange", "exchanges", multiple=True, type=EXCHANGE)
@click.option("--market", "markets", multiple=True, help="BTC/KRW, binance:BTC/USDT or */KRW")
@click.option("--channel", "channels", multiple=True, type=click.Choice(RECORDED), default=RECORDED)
@click.option("--output", type=click.Path(path_type=Path), help="folder [default: data/archive]")
@click.option("--duration", type=SECONDS, help="seconds [default: until stopped]")
@click.option(
    "--max-bytes",
    default=4 << 30,
    type=click.IntRange(min=1 << 20),
    show_default=True,
    help="limit for all files together",
)
@click.option(
    "--segment",
    "segment_s",
    default=3600.0,
    type=SECONDS,
    show_default=True,
    help="seconds per file",
)
def record(
    config_path: str | None,
    exchanges: tuple[str, ...],
    markets: tuple[str, ...],
    channels: tuple[Channel, ...],
    output: Path | None,
    duration: float | None,
    max_bytes: int,
    segment_s: float,
) -> None:
    """Record raw frames of exchanges into feed files until stopped.

    Exchanges and markets come from the configuration unless they are given here. Each connection
    has its own files: one for order books, one for tickers and trades. The files of order books
    also have the best prices that `books --check` needs, where the exchange sends them. At the end
    the counters of each connection are printed as JSON. The exit code is 1 when a connection
    received nothing.
    """
    from coinspace.collector.tools.capture import capture

    configure_logging()
    settings = load(config_path)
    chosen = {name: settings.exchanges[name] for name in exchanges or settings.collected}
    if markets:
        by_exchange = markets_by_exchange(tuple(chosen), markets)
        chosen = {
            name: chosen[name].model_copy(update={"markets": listed})
            for name, listed in by_exchange.items()
        }

    async def run() -> dict[str, dict[str, int | float]]:
        if markets:
            for name, one in chosen.items():
                await check_offered(name, one)
        return await capture(
            chosen,
            output or settings.data / "archive",
            channels,
            stop_event(duration),
            max_bytes=max_bytes,
            segment_s=segment_s,
            tuning=settings.tuning,
        )

    with elapsing("record", duration):
        counted = uvloop.run(run())
    click.echo(json_line(counted))
    empty = [name for name, counters in counted.items() if not counters.get("frames")]
    if empty:
        raise CoinSpaceError(f"record: expected frames, received none for {', '.join(empty)}")
