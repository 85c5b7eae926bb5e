"""The vocabulary of an exchange module: what `upbit`, `bithumb` and `binance` all define.

Nothing here does I/O. A module says what to send and how to read; the collectors send and receive.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Literal, Protocol

from coinspace.config import ExchangeSettings
from coinspace.market import Market

Stream = Literal["orderbook", "ticker"]
# what can be subscribed to; top: best prices of their own, where an exchange has such a channel
Channel = Literal["orderbook", "top", "ticker", "trade"]
Purpose = Literal["snapshot", "compare", "trades", "markets"]

# what a stage reads of its stream
# what `read_books`, `read_trades` and `read_markets` raise for an answer of another shape
UNREADABLE = (ValueError, LookupError, TypeError, AttributeError, OverflowError)
CHANNELS: dict[Stream, tuple[Channel, ...]] = {
    "orderbook": ("orderbook",),
    "ticker": ("ticker", "trade"),
}


# characters kept of what an exchange says
TEXT_LIMIT = 200
# versions of books are far below this
VERSION_LIMIT = 1 << 62


@dataclass(frozen=True, slots=True)
class Limit:
    """At most `count` units in any `seconds`."""

    count: int
    seconds: float


@dataclass(frozen=True, slots=True)
class AddressLimit:
    """What all programs of one address may use together in a minute of the clock.

    Attributes: header: of each answer, says how much has been used. count: where we stop asking.
    """

    header: str
    count: int


@dataclass(frozen=True, slots=True)
class Subscription:
    """One connection: its URL, the frames to send once it is open, and the symbols it then
    delivers.
    """

    url: str
    frames: tuple[bytes, ...]
    symbols: tuple[str, ...]
    grouped: bool = False


@dataclass(frozen=True, slots=True)
class Request:
    """One REST GET. `group` and `weight` count against the exchange's limits."""

    purpose: Purpose
    path: str
    group: str
    weight: int = 1
    symbols: tuple[str, ...] = ()
    # what the stage wants to remember until the answer, never sent
    context: Any = field(default=None, compare=False)


@dataclass(frozen=True, slots=True)
class RestBook:
    """A book by REST. `version` orders it against streamed ones: ms of its change, or an update id.

    bids, asks: (price, size), best first, sizes > 0.
    """

    symbol: str
    version: int
    bids: list[tuple[float, float]]
    asks: list[tuple[float, float]]

    def __post_init__(self) -> None:
        if not 0 <= self.version < VERSION_LIMIT:
            raise ValueError(f"book: expected an id or a time, was {self.version}")


@dataclass(frozen=True, slots=True)
class RestTrade:
    """A trade by REST; `trade_id` is in the REST id space of the exchange."""

    symbol: str
    trade_id: int
    exchange_ns: int
    price: float
    size: float
    sell: bool


@dataclass(frozen=True, slots=True)
class Listing:
    """A market that an exchange offers; `trading` is false while it is halted or winding down."""

    symbol: str
    market: Market
    trading: bool
    detail: str = ""


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why an exchange refused something.

    Attributes:
        fatal: repeating the same request would be refused again.
        retry_after_s: how long to wait at least, 0 = not said.
    """

    text: str
    fatal: bool
    retry_after_s: float = 0.0


class Exchange(Protocol):
    """The names of an exchange module, in their order."""

    NAME: str
    # books come as updates to a snapshot, so that a local book is kept
    UPDATES: bool
    # trade ids count up by one, so that a missing one shows
    CONTIGUOUS_TRADES: bool
    # REST trades carry the ids of streamed ones, so that they may be joined
    JOINABLE_TRADES: bool
    # deepest book of the stream, levels per side
    STREAM_DEPTH: int
    PING_INTERVAL_S: float
    # a connection's longest life, 0 = no known limit
    LIFETIME_S: float
    CONNECT_LIMIT: Limit
    # frames that we may send on one connection
    MESSAGE_LIMITS: tuple[Limit, ...]
    # by group
    REST_LIMITS: dict[str, Limit]
    # by group, where answers say it
    ADDRESS_LIMITS: dict[str, AddressLimit]
    # levels that snapshots can have at less weight than the deepest, fewest first
    SNAPSHOT_STEPS: tuple[int, ...]

    def parser(self, capacity: int) -> Any: ...
    def symbol_of(self, market: Market) -> str: ...
    def subscriptions(
        self, settings: ExchangeSettings, channels: Sequence[Channel], symbols: Sequence[str]
    ) -> list[Subscription]: ...
    def snapshot_request(self, symbol: str, levels: int) -> Request: ...
    def compare_requests(self, symbols: Sequence[str]) -> list[Request]: ...
    def trades_request(self, symbol: str) -> Request: ...
    # None = the exchange does not tell
    def older_trades_request(self, before: RestTrade) -> Request | None: ...
    def markets_request(self) -> Request: ...
    def read_books(self, request: Request, payload: bytes) -> list[RestBook]: ...
    def read_trades(
        self, request: Request, payload: bytes, wall_ns: int = 0
    ) -> list[RestTrade]: ...
    def read_markets(self, payload: bytes) -> list[Listing]: ...
    def refusal_of_frame(self, detail: dict[str, Any]) -> Refusal: ...
    def refusal_of_answer(self, status: int, payload: bytes) -> Refusal | None: ...


def plain(text: str) -> str:
    """Return text from outside as one short printable line, for logs, states and terminals."""
    cut = text[:TEXT_LIMIT]
    shown = "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in cut)
    return shown if len(text) <= TEXT_LIMIT else f"{shown} …"


# when a refusal ends: "until" a time in ms or s since 1970 or of ISO 8601, or "for" how long
_UNTIL = re.compile(
    r"\buntil\W{1,3}(?:(\d{13}|\d{10})(?!\d)|(\d{4}-\d\d-\d\d[T ]\d\d:\d\d:\d\d(?:\.\d{1,6})?"
    r"(?:Z|[+-]\d\d:\d\d)))",
    re.IGNORECASE,
)
_FOR = re.compile(
    r"(?<![\d.])(\d{1,7}) ?(?:(s|sec|secs|seconds?|초)|(m|min|mins|minutes?|분)|(h|hours?|시간))"
    r"(?![a-z])",
    re.IGNORECASE,
)
_FOR_UNITS_S = (1, 60, 3600)
# what is read of a refusal's text
BLOCK_TEXT = 2000


def block_s(payload: bytes, exchange_s: float) -> float:
    """Return for how long a refusal (429, 418) says that nothing will be answered, 0 = not said.

    Args: exchange_s: now by the exchange's clock, s since 1970.
    """
    text = payload[:BLOCK_TEXT].decode(errors="replace")
    if match := _UNTIL.search(text):
        number, instant = match.groups()
        try:
            if number:
                until_s = int(number) / (1000 if len(number) == 13 else 1)
            else:
                until_s = datetime.fromisoformat(instant.replace("Z", "+00:00")).timestamp()
        except ValueError:
            return 0.0
        return max(0.0, until_s - exchange_s)
    if match := _FOR.search(text):
        unit = next(n for n, found in enumerate(match.groups()[1:]) if found)
        return float(int(match[1]) * _FOR_UNITS_S[unit])
    return 0.0


def finite(value: Any) -> float:
    """Return a number of an answer. Raises: ValueError when it is not finite."""
    number = float(value)
    if not math.isfinite(number):
        raise ValueError(f"expected a finite number, was {number}")
    return number


def chunks(items: Sequence[str], size: int) -> list[tuple[str, ...]]:
    """Split a sequence into pieces of at most `size`."""
    return [tuple(items[i : i + size]) for i in range(0, len(items), size)]
