"""The names that each exchange module of this folder defines, and their types.

Nothing here does I/O. A module defines what to send and how to read it; the collectors send and
receive.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Literal, NamedTuple, Protocol

from coinspace.exchanges.facts import Said
from coinspace.exchanges.settings import ExchangeSettings
from coinspace.market import Market

Stream = Literal["orderbook", "ticker"]
# channels of a subscription; top: best prices, where an exchange has a channel for them
Channel = Literal["orderbook", "top", "ticker", "trade"]
Purpose = Literal["snapshot", "compare", "trades", "markets", "facts", "groups"]

# channels that each stage needs
CHANNELS: dict[Stream, tuple[Channel, ...]] = {
    "orderbook": ("orderbook",),
    "ticker": ("ticker", "trade"),
}


# characters kept of a text of an exchange
TEXT_LIMIT = 200
# versions of books are far below this
VERSION_LIMIT = 1 << 62


@dataclass(frozen=True, slots=True)
class Limit:
    """At most `count` units in any `seconds`."""

    count: int
    seconds: float


@dataclass(frozen=True, slots=True)
class Rates:
    """Messages a second of one market that are not repeats."""

    orderbook: float
    ticker: float
    trade: float


@dataclass(frozen=True, slots=True)
class Load:
    """The exchange's measured load, from which the size of the database is predicted.

    Attributes: major: of a market of the default assets. other: of any other market. listed: quote
        currency -> number of markets.
    """

    major: Rates
    other: Rates
    listed: Mapping[str, int]


@dataclass(frozen=True, slots=True)
class AddressLimit:
    """Limit of all programs of one address together, in one minute of the clock.

    Attributes: header: the header of each answer with the used weight. count: weight at which
        CoinSpace stops requesting.
    """

    header: str
    count: int


@dataclass(frozen=True, slots=True)
class Subscription:
    """One connection: its URL, the frames to send when it is open, and the symbols it delivers.

    headers: of the handshake; they have a secret, which is shown nowhere.
    fallback: the subscription without the key, for an exchange that refuses the key.
    aside: it brings other channels of markets whose states another subscription decides.
    """

    url: str
    frames: tuple[bytes, ...]
    symbols: tuple[str, ...]
    headers: tuple[tuple[str, str], ...] = field(default=(), repr=False)
    fallback: Subscription | None = None
    aside: bool = False


@dataclass(frozen=True, slots=True)
class Request:
    """One REST GET. `group` and `weight` count against the exchange's limits."""

    purpose: Purpose
    path: str
    group: str
    weight: int = 1
    symbols: tuple[str, ...] = ()
    # data of the stage, kept until the answer and never sent
    context: Any = field(default=None, compare=False)
    # data of the exchange's module: the place of the answer in a list that is read page by page
    place: Any = field(default=None, compare=False)


# parts of the facts beside the price: as the fields of `Said`
Part = Literal["wallets", "trading", "flags", "notices", "whole"]


@dataclass(frozen=True, slots=True)
class FactSource:
    """A REST answer with facts beside the price.

    Attributes: parts: what it says. every_s: how often it is asked for; the list of markets, which
        is asked for anyway, has 0.
    """

    request: Request
    parts: tuple[Part, ...]
    every_s: float = 60.0


@dataclass(frozen=True, slots=True)
class Grouping:
    """How an exchange sends books whose levels are price groups.

    levels: the exchange's numbers of groups that can be tried, ascending; () = REST lists them.
    width: width of the groups of a number in quote currency, at a price.
    tick: smallest step of prices at a price.
    frame: subscribes to the groups of one symbol.
    request, read: the list of numbers by REST, as symbol -> numbers; None = there is none.
    """

    levels: tuple[float, ...]
    width: Callable[[float, float], float]
    tick: Callable[[float], float]
    frame: Callable[[ExchangeSettings, str, float], bytes]
    request: Callable[[Sequence[str]], Request] | None = None
    read: Callable[[bytes], dict[str, tuple[float, ...]]] | None = None

    def finest(
        self, levels: Iterable[float], price: float, count: int, reach: float
    ) -> float | None:
        """Return the finest groups of which `count` reach as far as wanted.

        Args: levels: numbers of groups. reach: share of the price. Returns: the widest groups
            where none reach so far; None without any, or where single levels reach so far.
        """
        wanted = reach * price
        if count * self.tick(price) >= wanted:
            return None
        by_width = sorted((self.width(level, price), level) for level in levels)
        far = [level for width, level in by_width if count * width >= wanted]
        return far[0] if far else by_width[-1][1] if by_width else None


@dataclass(frozen=True, slots=True)
class RestBook:
    """A book by REST.

    version: the book's place among streamed books: an update id, or its time in ms.
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
    """A trade by REST; `trade_id` is the id that REST gives it.

    trades: of an aggregate, number of trades of one time, price and side, with ids from `trade_id`.
    """

    symbol: str
    trade_id: int
    exchange_ns: int
    price: float
    size: float
    sell: bool
    trades: int = 1

    @property
    def last_id(self) -> int:
        return self.trade_id + self.trades - 1


@dataclass(frozen=True, slots=True)
class TradePage:
    """One answer of a list of trades that is read backwards, page by page.

    Attributes:
        request: the answered request. trades: as `read_trades` returns them.
        fresh: whether it has a trade that no page before had.
        oldest: oldest trade of all pages, None = none so far.
        from_ns: how far back trades are wanted. wall_ns: time of the answer.
    """

    request: Request
    trades: Sequence[RestTrade]
    fresh: bool
    oldest: RestTrade | None
    from_ns: int
    wall_ns: int


@dataclass(frozen=True, slots=True)
class Listing:
    """A market that an exchange offers; `trading` is false while the market is halted."""

    symbol: str
    market: Market
    trading: bool
    detail: str = ""


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why an exchange refused a request or a subscription.

    fatal: the exchange would refuse the same request again.
    whole: of a subscription: the exchange refused all of it, so that the connection is of no use.
    """

    text: str
    fatal: bool
    whole: bool = True


OPEN_NS = 2**63 - 1


def day_ns(text: str) -> int:
    """Return the beginning of a UTC day such as `2022-05-28`, in ns."""
    return int(datetime.fromisoformat(text).replace(tzinfo=UTC).timestamp()) * 1_000_000_000


@dataclass(frozen=True, slots=True)
class Identity:
    """Meaning of a base name on one exchange from `from_ns` until before `to_ns`.

    multiplier: units of the asset in one unit of the name (1000SATS is 1000 SATS). Prices are
    divided by it and sizes multiplied.
    """

    exchange: str
    name: str
    asset: str
    multiplier: float = 1.0
    from_ns: int = 0
    to_ns: int = OPEN_NS


class Label(NamedTuple):
    """Kind and symbol of a recorded frame.

    kinds: channel names that send such a frame. symbol: as subscriptions spell it. wrapped:
    whether the frame is in an envelope.
    """

    kinds: tuple[str, ...]
    symbol: str
    wrapped: bool


# an acknowledgement, an error, a status
NOTHING = Label((), "", False)


class RecordedBook(Protocol):
    """A book rebuilt from recorded frames, which answers requests at any moment of a recording."""

    id: int

    # takes a recorded snapshot; False for an answer that is not one, as an error
    def restart(self, snapshot: bytes) -> bool: ...
    # takes an update unless it is older than the book, or malformed
    def apply(self, payload: bytes) -> None: ...
    # the book as the JSON of a REST answer with at most `limit` levels per side
    def answer(self, limit: int) -> bytes: ...


class Recording(Protocol):
    """Data from which REST requests are answered: a recording that is played, simulated markets."""

    # as REST spells them
    @property
    def symbols(self) -> Collection[str]: ...
    # the newest frame of a kind, None when there is none
    def last(self, kind: str, symbol: str) -> bytes | None: ...
    # the frames of the newest trades, oldest first
    def trades(self, symbol: str) -> Iterable[bytes]: ...
    # a snapshot of this moment with at most `levels` levels per side, None when there is none
    def book(self, symbol: str, levels: int) -> bytes | None: ...


class Heard(NamedTuple):
    """Data that a trial connection of `probe` delivered.

    before, after: numbers of book frames until the last frame of the trial was answered, and later.
    controls: frames without market data. close: code and reason, "" = still open.
    """

    before: int
    after: int
    controls: list[Any]
    close: str


class Trial(NamedTuple):
    """Frames that `probe` sends on a separate connection, and the facts that must follow.

    facts: name -> function that returns whether the fact was seen, and whether it is true.
    headers: of the handshake.
    """

    url: str
    frames: tuple[bytes, ...]
    facts: Mapping[str, Callable[[Heard], tuple[bool, bool]]]
    headers: tuple[tuple[str, str], ...] = ()


class Exchange(Protocol):
    """The names of an exchange module, in their order."""

    NAME: str
    # position in lists of exchanges
    ORDER: int
    # KR or GL: venues are compared within their region first, then over all regions
    REGION: str
    # quote currencies; markets in the first one count in the index by default
    QUOTES: tuple[str, ...]
    # defaults of its section of the configuration
    SETTINGS: ExchangeSettings
    # whether its markets are collected where the configuration names none
    BY_DEFAULT: bool
    # base names that mean another asset, or several units
    IDENTITIES: tuple[Identity, ...]
    # on a dark page and on a light page
    COLOURS: tuple[str, str]
    # measured load
    LOAD: Load
    # name of the server in the simulator that speaks the exchange's protocol
    PROTOCOL: str
    # books come as updates to a snapshot, so that a local book is kept
    UPDATES: bool
    # each subscription begins with a whole book, and its updates have no ids; else a snapshot is
    # requested by REST, and ids show which updates follow it
    SNAPSHOTS_IN_STREAM: bool
    # symbols do not show base and quote: only the list of markets has them
    NAMED_SYMBOLS: bool
    # beginning of the kinds of recorded book frames
    BOOK_KIND: str
    # trade ids count up by one, so that a missing id shows a gap
    CONTIGUOUS_TRADES: bool
    # REST trades have the ids of streamed trades, so that both can be joined
    JOINABLE_TRADES: bool
    # deepest book of the stream, levels per side
    STREAM_DEPTH: int
    # None = the stream has no price groups
    GROUPING: Grouping | None
    PING_INTERVAL_S: float
    # text that is sent to keep a connection alive, b"" = a ping of the protocol
    PING_FRAME: bytes
    # healthy markets are silent for minutes: an answer to a ping proves what a connection delivers
    QUIET_MARKETS: bool
    # time between two pings of the server, 0 = the server sends none
    SERVER_PING_S: float
    # longest life of a connection, 0 = no known limit
    LIFETIME_S: float
    # whether frames are binary or text
    BINARY_FRAMES: bool
    # whether each market sends a frame at once, even a quiet one
    FIRST_FRAMES: bool
    CONNECT_LIMIT: Limit
    # frames that may be sent on one connection
    MESSAGE_LIMITS: tuple[Limit, ...]
    # by group
    REST_LIMITS: dict[str, Limit]
    # headers of each request
    REST_HEADERS: Mapping[str, str]
    # addresses of the same data for an address that is refused for its country, "" = none
    MIRRORS: str
    # by group, where answers report the used weight
    ADDRESS_LIMITS: dict[str, AddressLimit]
    # numbers of levels that a snapshot request can name, ascending by weight
    SNAPSHOT_STEPS: tuple[int, ...]
    # answers with facts beside the price, public ones only
    FACTS: tuple[FactSource, ...]

    def parser(self, capacity: int, markets: Iterable[str] = ()) -> Any: ...
    def symbol_of(self, market: Market) -> str: ...
    # None = not a symbol of a market, or a symbol that does not show its market
    def market_of(self, symbol: str) -> Market | None: ...
    def subscriptions(
        self, settings: ExchangeSettings, channels: Sequence[Channel], symbols: Sequence[str]
    ) -> list[Subscription]: ...
    # frames that bring the whole book of one market again, () = REST brings it
    def resubscribe_frames(self, symbol: str) -> tuple[bytes, ...]: ...
    def snapshot_request(self, symbol: str, levels: int) -> Request: ...
    def compare_requests(self, symbols: Sequence[str]) -> list[Request]: ...
    def trades_request(self, symbol: str) -> Request: ...
    # the page after a page, None = the exchange gives no older trades
    def older_trades_request(self, page: TradePage) -> Request | None: ...
    # trades from a time on, several of which can be one aggregate; None = there are no aggregates
    def aggregates_request(self, symbol: str, from_ns: int) -> Request | None: ...
    def markets_request(self) -> Request: ...
    def read_books(self, request: Request, payload: bytes) -> list[RestBook]: ...
    def read_trades(
        self, request: Request, payload: bytes, wall_ns: int = 0
    ) -> list[RestTrade]: ...
    def read_markets(self, payload: bytes) -> list[Listing]: ...
    # of a request of FACTS
    def read_facts(self, request: Request, payload: bytes) -> Said: ...
    def refusal_of_frame(self, detail: dict[str, Any]) -> Refusal: ...
    def refusal_of_answer(self, status: int, payload: bytes) -> Refusal | None: ...

    # recordings

    def label(self, payload: bytes) -> Label: ...
    # first and last id of a frame, None = its ids do not count up
    def ids_of(self, label: Label, payload: bytes) -> tuple[bytes, bytes] | None: ...
    # the request that a recorded answer belongs to, None = no stage reads the answer
    def request_of(self, path: str) -> Request | None: ...
    # None = each frame is a whole book
    def recorded_book(self) -> RecordedBook | None: ...
    # HTTP status and content of the answer to a request while a recording is played
    def answer(
        self, recording: Recording, path: str, query: Mapping[str, str], wall_ns: int
    ) -> tuple[int, Any]: ...

    # `probe`

    def trials(self, settings: ExchangeSettings, symbol: str) -> list[Trial]: ...
    # name of the fact, and a request that the exchange must refuse
    def bad_request(self, symbol: str) -> tuple[str, Request]: ...


# longest number of a query, in digits
DIGITS = 18
MOST_ID = 10**DIGITS
# errors of reading fields from malformed bytes
MALFORMED = (ValueError, TypeError, KeyError, IndexError, AttributeError)
# ids of trades that do not count up may be in disorder within this time
DISORDER_NS = 1_000_000_000
# a larger time is in µs: in ms it would be the year 5138
MICROSECONDS_FROM = 100_000_000_000_000
# longest name in a frame, in bytes: a longer one is not a symbol
NAME_SIZE = 64


def number(text: str | None, default: int, most: int) -> int:
    """Return the number in a query, at most `most`; the default for 0 or another text."""
    if not text or not (text.isascii() and text.isdigit()):
        return default
    # a number of more digits is beyond any limit
    return min(most, int(text)) or default if len(text) <= DIGITS else most


def short_name(raw: bytes) -> str:
    """Return a name of a recorded frame, cut to NAME_SIZE bytes."""
    return raw[:NAME_SIZE].decode(errors="replace")


def shaped(
    frames: Iterable[bytes], shape: Callable[[bytes], dict[str, Any]]
) -> list[dict[str, Any]]:
    """Return recorded frames in the form of REST, without malformed ones."""
    rows = []
    for payload in frames:
        try:
            rows.append(shape(payload))
        except MALFORMED:
            continue
    return rows


def said(value: object) -> str:
    """Return a value of a refusal as text.

    A list or an object, which no refusal has, can be as large as the answer: it has no text.
    """
    return "…" if isinstance(value, list | dict) else str(value)


def plain(text: str) -> str:
    """Return a text from outside as one short printable line, for logs, states and terminals."""
    cut = text[:TEXT_LIMIT]
    shown = "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in cut)
    return shown if len(text) <= TEXT_LIMIT else f"{shown} …"


# documented for 451; firewalls use 403 and name the country or the region
_COUNTRY = re.compile(rb"\bcountr|\bregion|restricted location|\bjurisdiction", re.IGNORECASE)


def country_refusal(status: int, payload: bytes, mirrors: str) -> Refusal | None:
    """Return the refusal of an address for its country, None for any other answer.

    It says nothing about the market that was asked for, and ends with another address.
    """
    if status != 451 and not (status == 403 and _COUNTRY.search(payload[:BLOCK_TEXT])):
        return None
    advice = f"; use {mirrors}" if mirrors else ""
    return Refusal(f"HTTP {status}: this address is refused for its country{advice}", fatal=False)


# the end of a refusal: "until" and a time (ms or s since 1970, or ISO 8601), or a duration
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
# bytes that are read of a refusal's text
BLOCK_TEXT = 2000


def block_s(payload: bytes, exchange_s: float) -> float:
    """Return how long a refusal (HTTP 429, 418) lasts in seconds, 0 = not in its text.

    Args: exchange_s: the present time of the exchange's clock, s since 1970.
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


def epoch_ns(timestamp: int) -> int:
    """Return a time in ms or µs since 1970 in ns."""
    return timestamp * (1000 if timestamp >= MICROSECONDS_FROM else 1_000_000)


def finite(value: Any) -> float:
    """Return a number of an answer. Raises: ValueError when it is not finite."""
    number = float(value)
    if not math.isfinite(number):
        raise ValueError(f"expected a finite number, was {number}")
    return number


def chunks(items: Sequence[str], size: int) -> list[tuple[str, ...]]:
    """Split a sequence into pieces of at most `size`."""
    return [tuple(items[i : i + size]) for i in range(0, len(items), size)]
