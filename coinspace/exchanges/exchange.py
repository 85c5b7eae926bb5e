"""The vocabulary of an exchange module: what each exchange of this folder defines.

Nothing here does I/O. A module says what to send and how to read; the collectors send and receive.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Literal, NamedTuple, Protocol

from coinspace.exchanges.settings import ExchangeSettings
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


OPEN_NS = 2**63 - 1


def day_ns(text: str) -> int:
    """Return the beginning of a UTC day, `2022-05-28`, in ns."""
    return int(datetime.fromisoformat(text).replace(tzinfo=UTC).timestamp()) * 1_000_000_000


@dataclass(frozen=True, slots=True)
class Identity:
    """What a base name means on one exchange from `from_ns` until before `to_ns`.

    multiplier: units of the asset in one unit of the name (1000SATS is 1000 SATS). Prices are
    divided and sizes multiplied by it.
    """

    exchange: str
    name: str
    asset: str
    multiplier: float = 1.0
    from_ns: int = 0
    to_ns: int = OPEN_NS


class Label(NamedTuple):
    """What a recorded frame is.

    kinds: names by which it may be subscribed. symbol: as subscriptions spell it. wrapped: whether
    the frame stands in an envelope.
    """

    kinds: tuple[str, ...]
    symbol: str
    wrapped: bool


# an acknowledgement, an error, a status
NOTHING = Label((), "", False)


class RecordedBook(Protocol):
    """A book rebuilt from recorded frames, to answer for any moment of a recording."""

    id: int

    def restart(self, snapshot: bytes) -> bool:
        """Take a recorded snapshot; return False for an answer that is none, such as an error."""

    def apply(self, payload: bytes) -> None:
        """Take an update unless it is older than the book, or malformed."""

    def answer(self, limit: int) -> bytes:
        """Return the book as REST does."""


class Recording(Protocol):
    """What an answer to a REST request can be made from while a recording is played."""

    @property
    def symbols(self) -> Collection[str]:
        """The symbols that the recording holds, as REST spells them."""

    def last(self, kind: str, symbol: str) -> bytes | None:
        """Return the newest frame of a kind."""

    def trades(self, symbol: str) -> Iterable[bytes]:
        """Return the newest trades' frames, oldest first."""

    def book(self, symbol: str, levels: int) -> bytes | None:
        """Return a snapshot for a request that comes now."""


class Heard(NamedTuple):
    """What a trial connection of `probe` brought.

    before, after: book frames until the last frame of the trial was sent and answered, and later.
    controls: frames that are no market data. close: code and reason, "" = still open.
    """

    before: int
    after: int
    controls: list[Any]
    close: str


class Trial(NamedTuple):
    """Frames that `probe` sends on a connection of its own, and what must follow.

    facts: name -> whether it was seen at all, and whether it holds.
    """

    url: str
    frames: tuple[bytes, ...]
    facts: Mapping[str, Callable[[Heard], tuple[bool, bool]]]


class Exchange(Protocol):
    """The names of an exchange module, in their order."""

    NAME: str
    # place where exchanges are listed
    ORDER: int
    # KR or GL: venues of a region are judged against each other before all are
    REGION: str
    # the main currency of its books first: markets in it count in the index by default
    QUOTES: tuple[str, ...]
    # its section of the configuration
    SETTINGS: ExchangeSettings
    # base names that mean another asset, or several units
    IDENTITIES: tuple[Identity, ...]
    # on a dark page and on a light one
    COLOURS: tuple[str, str]
    # which of the simulator's servers speaks as it does
    PROTOCOL: str
    # books come as updates to a snapshot, so that a local book is kept
    UPDATES: bool
    # symbols do not say base and quote: only a list of markets tells them
    NAMED_SYMBOLS: bool
    # how the kinds of recorded book frames begin
    BOOK_KIND: str
    # trade ids count up by one, so that a missing one shows
    CONTIGUOUS_TRADES: bool
    # REST trades carry the ids of streamed ones, so that they may be joined
    JOINABLE_TRADES: bool
    # deepest book of the stream, levels per side
    STREAM_DEPTH: int
    PING_INTERVAL_S: float
    # how often the server pings, 0 = it leaves that to us
    SERVER_PING_S: float
    # a connection's longest life, 0 = no known limit
    LIFETIME_S: float
    # whether frames are binary, or text
    BINARY_FRAMES: bool
    # whether each market sends a frame at once, however quiet it is
    FIRST_FRAMES: bool
    CONNECT_LIMIT: Limit
    # frames that we may send on one connection
    MESSAGE_LIMITS: tuple[Limit, ...]
    # by group
    REST_LIMITS: dict[str, Limit]
    # by group, where answers say it
    ADDRESS_LIMITS: dict[str, AddressLimit]
    # levels that snapshots can have at less weight than the deepest, fewest first
    SNAPSHOT_STEPS: tuple[int, ...]

    def parser(self, capacity: int, markets: Iterable[str] = ()) -> Any: ...
    def symbol_of(self, market: Market) -> str: ...
    # None = no market's symbol, or one that does not say its market
    def market_of(self, symbol: str) -> Market | None: ...
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

    # recordings

    def label(self, payload: bytes) -> Label: ...
    # first and last id of a frame, None = its ids do not count up
    def ids_of(self, label: Label, payload: bytes) -> tuple[bytes, bytes] | None: ...
    # the request that a recorded answer belongs to, None = one that no stage reads
    def request_of(self, path: str) -> Request | None: ...
    # None = each frame is a whole book
    def recorded_book(self) -> RecordedBook | None: ...
    # status and content of the answer to a request while a recording is played
    def answer(
        self, recording: Recording, path: str, query: Mapping[str, str], wall_ns: int
    ) -> tuple[int, Any]: ...

    # `probe`

    def trials(self, settings: ExchangeSettings, symbol: str) -> list[Trial]: ...
    # what is checked, and a request that must be refused
    def bad_request(self, symbol: str) -> tuple[str, Request]: ...


# digits of a number in a query that are read
DIGITS = 18
MOST_ID = 10**DIGITS
# what malformed bytes raise where fields are read
MALFORMED = (ValueError, TypeError, KeyError, IndexError, AttributeError)
# bytes of a name in a frame: what is longer is no symbol
NAME_SIZE = 64


def number(text: str | None, default: int, most: int) -> int:
    """Return a number of a query; the default where it is none or 0."""
    if not text or not (text.isascii() and text.isdigit()):
        return default
    # a number of more digits is beyond any limit
    return min(most, int(text)) or default if len(text) <= DIGITS else most


def short_name(raw: bytes) -> str:
    """Return a name of a recorded frame."""
    return raw[:NAME_SIZE].decode(errors="replace")


def shaped(
    frames: Iterable[bytes], shape: Callable[[bytes], dict[str, Any]]
) -> list[dict[str, Any]]:
    """Return recorded frames in the shape of REST, without the malformed ones."""
    rows = []
    for payload in frames:
        try:
            rows.append(shape(payload))
        except MALFORMED:
            continue
    return rows


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
