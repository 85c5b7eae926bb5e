"""The markets of an exchange, requested once for a command, without a collector."""

from __future__ import annotations

from coinspace.collector.collection import tls_context
from coinspace.collector.fetcher import Fetcher, RefusedError
from coinspace.collector.markets import checked
from coinspace.errors import UNREADABLE, ConfigError, ConnectError
from coinspace.exchanges import exchange as exchange_named
from coinspace.exchanges.exchange import Listing
from coinspace.exchanges.settings import ExchangeSettings
from coinspace.market import Market
from coinspace.text import shown_address


async def listed(exchange: str, settings: ExchangeSettings) -> list[Listing]:
    """Return the markets of an exchange. Raises: ConnectError when the list cannot be read."""
    spelled = exchange_named(exchange)
    fetcher = Fetcher(spelled, settings.rest, ssl_context=tls_context(settings))
    try:
        return checked(spelled.read_markets(await fetcher.get(spelled.markets_request())))
    except RefusedError as error:
        text = f"expected an answer from {shown_address(settings.rest)}, was {error}"
        raise ConnectError(f"market list of {exchange}: {text}") from None
    except UNREADABLE as error:
        text = f"expected an answer of the known shape, was {error!r}"
        raise ConnectError(f"market list of {exchange}: {text}") from None
    finally:
        await fetcher.close()


async def check_offered(exchange: str, settings: ExchangeSettings) -> None:
    """Check that the exchange offers each market that the settings name.

    Raises: ConfigError with the markets that are not offered; ConnectError as `listed`.
    """
    named = [text for text in settings.markets if "*" not in text]
    if not named:
        return
    spelled = exchange_named(exchange)
    symbols = {listing.symbol for listing in await listed(exchange, settings)}
    missing = [text for text in named if spelled.symbol_of(Market.parse(text)) not in symbols]
    if missing:
        raise ConfigError(
            f"markets: expected markets that {exchange} offers, was {', '.join(missing)};"
            f" `coinspace markets {exchange}` lists them"
        )
