"""Errors of the whole platform.

Text form: what was expected, ", was" the value, where. The values are also attributes, so that
no caller parses a text.
"""

from __future__ import annotations

# what reading JSON of another form than expected raises; RecursionError: lists in lists in lists
UNREADABLE = (
    LookupError, TypeError, ValueError, AttributeError, OverflowError, RecursionError
)  # fmt: skip


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


class ConnectError(CoinSpaceError):
    """The exchange could not be reached or refused the connection."""


class StorageError(CoinSpaceError):
    """The database refused rows or cannot be reached.

    Attributes: table (None = the whole server).
    """

    def __init__(self, text: str, table: str | None = None) -> None:
        super().__init__(text)
        self.table = table


class DatabaseUnavailable(StorageError):
    """The database cannot be reached now."""


class QueryTimeout(StorageError):
    """The database took too long, or no connection to it became free."""


class NoSuchTable(StorageError):
    """A table does not exist yet."""


class NoSuchColumn(NoSuchTable):
    """A table of an earlier release does not have a column yet."""


class EndpointError(CoinSpaceError):
    """The HTTP endpoint cannot serve as configured."""
