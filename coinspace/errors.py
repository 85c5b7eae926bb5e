"""Errors of the whole platform.

Text form: what was expected, ", was" the value, where. The values are attributes, so that
nobody parses texts.
"""

from __future__ import annotations


class CoinSpaceError(Exception):
    """Base of every error that CoinSpace raises on purpose."""


class ConfigError(CoinSpaceError):
    """A setting is unknown, of the wrong type or cannot work on this machine."""


class MarketError(CoinSpaceError):
    """A market or symbol is not written as expected."""


class FeedError(CoinSpaceError):
    """A recording is not in the feed format."""


class MessageError(CoinSpaceError):
    """A bus message has an unknown version or kind, or sizes that do not agree."""


class BusError(CoinSpaceError):
    """A bus socket cannot be bound, connected or used."""


class JournalError(BusError):
    """A journal segment is damaged or cannot be written."""


class ExchangeError(CoinSpaceError):
    """Something about one exchange; `needs_reconnect` says whether a new connection can help.

    Attributes: exchange, symbol (None = the whole connection).
    """

    needs_reconnect = True

    def __init__(self, text: str, exchange: str, symbol: str | None = None) -> None:
        super().__init__(text)
        self.exchange = exchange
        self.symbol = symbol


class ConnectError(ExchangeError):
    """The exchange could not be reached or refused the connection."""


class SilenceError(ExchangeError):
    """Nothing arrived for longer than the limit."""


class SubscribeRefused(ExchangeError):
    """The exchange refused a subscription: a new connection would be refused the same way."""

    needs_reconnect = False


class SequenceGap(ExchangeError):
    """An update of a local book is missing: the book of that symbol must be built anew."""

    needs_reconnect = False

    def __init__(self, exchange: str, symbol: str, expected: int, found: int) -> None:
        super().__init__(
            f"expected update {expected}, was {found}, {exchange} {symbol}", exchange, symbol
        )
        self.expected = expected
        self.found = found


class StorageError(CoinSpaceError):
    """The database refused rows or cannot be reached.

    Attributes: table (None = the whole server), rows.
    """

    def __init__(self, text: str, table: str | None = None, rows: int = 0) -> None:
        super().__init__(text)
        self.table = table
        self.rows = rows


class IndexDefinitionError(CoinSpaceError):
    """The parameters of an index contradict each other."""


class EndpointError(CoinSpaceError):
    """The HTTP endpoint cannot serve as configured."""
