"""Answers of the API as typed objects.

Each is the JSON object as the server sent it, a dict of decimal strings and epoch milliseconds. Its
attributes are the same fields as Python values: float, datetime in UTC, bool, and further answers.
A field that an older server does not send is an AttributeError with that reason; a field of a newer
server is in the dict.
"""

from __future__ import annotations

import functools
import types
from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Any, ClassVar, TypeVar, Union, get_args, get_origin, get_type_hints

import orjson

from coinspace.client.errors import BadAnswer
from coinspace.client.frame import SHOWN_ROWS, Frame, html_table, library
from coinspace.text import printable

T = TypeVar("T")


class Answer(dict[str, Any], Frame):
    """A JSON object of the API."""

    # fields of the one-line form
    _shown: ClassVar[tuple[str, ...]] = ()

    def __getattr__(self, name: str) -> Any:
        hint = fields(type(self)).get(name)
        if hint is None:
            raise AttributeError(f"{type(self).__name__} has no field {name!r}")
        if name not in self:
            raise AttributeError(
                f"{type(self).__name__}.{name}: the endpoint does not send this field; it is older"
                " than this client"
            )
        try:
            return converted(hint, self[name])
        except (AttributeError, TypeError, ValueError, OverflowError, OSError) as error:
            raise BadAnswer(f"{type(self).__name__}.{name}: {error}") from None

    def __dir__(self) -> Iterable[str]:
        return [*super().__dir__(), *fields(type(self))]

    def __repr__(self) -> str:
        facts = (f"{name}={_text(getattr(self, name))}" for name in self._shown if name in self)
        return f"{type(self).__name__}({', '.join(facts)})"

    def _repr_html_(self) -> str:
        known = [name for name in fields(type(self)) if name in self]
        plain = [[name, _text(getattr(self, name), html=True)] for name in known]
        return html_table(["", type(self).__name__], plain)

    def to_arrow(self) -> Any:
        """Return a pyarrow.Table with one row; the fields of a part are columns `part.field`."""
        return Rows([self]).to_arrow()


A = TypeVar("A", bound=Answer)


class Rows(list[A], Frame):
    """A list of answers of one kind."""

    def to_arrow(self) -> Any:
        """Return a pyarrow.Table; the fields of a part are columns such as `premium.coin`."""
        arrow = library("pyarrow")
        if not self:
            return arrow.table({})
        names = fields(type(self[0]))
        schema = arrow.schema([(name, _column(hint)) for name, hint in names.items()])
        table = arrow.Table.from_pylist([_plain(type(one), one) for one in self], schema=schema)
        while any(arrow.types.is_struct(one.type) for one in table.schema):
            table = table.flatten()
        return table

    def __repr__(self) -> str:
        lines = [repr(one) for one in self[: 2 * SHOWN_ROWS]]
        if len(self) > len(lines):
            lines.append(f"… {len(self) - len(lines):,} more")
        return "[" + ",\n ".join(lines) + "]"

    def _repr_html_(self) -> str:
        if not self:
            return "none"
        names = [
            name
            for name in fields(type(self[0]))
            if not any(isinstance(one.get(name), dict | list) for one in self)
        ]
        rows = [
            [_text(getattr(one, name, None), html=True) for name in names]
            for one in (
                [*self[:SHOWN_ROWS], *self[-SHOWN_ROWS:]] if len(self) > 2 * SHOWN_ROWS else self
            )
        ]
        return html_table(names, rows, f"{len(self):,} × {type(self[0]).__name__}", len(self))


@functools.cache
def fields(kind: type[Answer]) -> dict[str, Any]:
    """Return the fields of an answer with their types."""
    return {name: one for name, one in get_type_hints(kind).items() if not name.startswith("_")}


def _optional(hint: Any) -> Any:
    if get_origin(hint) in (Union, types.UnionType):
        return next(one for one in get_args(hint) if one is not type(None))
    return hint


def converted(hint: Any, value: Any) -> Any:
    """Return a JSON value as its type."""
    if value is None:
        return None
    hint = _optional(hint)
    kind, inner = get_origin(hint) or hint, get_args(hint)
    if kind is datetime:
        return datetime.fromtimestamp(value / 1000, UTC)
    if kind is Rows or kind is list:
        return kind(converted(inner[0], one) for one in value)
    if kind is tuple:
        return tuple(converted(part, one) for part, one in zip(inner, value, strict=True))
    if kind is dict:
        return {name: converted(inner[1], one) for name, one in value.items()}
    return value if kind is Any else kind(value)


def _plain(hint: Any, value: Any) -> Any:
    """Return a JSON value as its column has it."""
    hint = _optional(hint)
    kind, inner = get_origin(hint) or hint, get_args(hint)
    if value is None:
        return None
    if kind in (list, tuple, Rows):
        return [_plain(inner[0], one) for one in value]
    if hint == dict[str, Any]:
        return orjson.dumps(value).decode()
    if kind is dict:
        return [{"name": name, "value": _plain(inner[1], one)} for name, one in value.items()]
    if isinstance(kind, type) and issubclass(kind, Answer):
        return {name: _plain(one, value.get(name)) for name, one in fields(kind).items()}
    return converted(hint, value)


def _column(hint: Any) -> Any:
    """Return the type of a field's column."""
    arrow = library("pyarrow")
    hint = _optional(hint)
    kind, inner = get_origin(hint) or hint, get_args(hint)
    if kind in (list, tuple, Rows):
        return arrow.list_(_column(inner[0]))
    if hint == dict[str, Any]:
        return arrow.string()
    if kind is dict:
        return arrow.list_(arrow.struct([("name", arrow.string()), ("value", _column(inner[1]))]))
    if issubclass(kind, Answer):
        return arrow.struct([(name, _column(one)) for name, one in fields(kind).items()])
    return {
        str: arrow.string(),
        float: arrow.float64(),
        int: arrow.int64(),
        bool: arrow.bool_(),
        datetime: arrow.timestamp("ms", tz="UTC"),
    }[kind]


def _text(value: Any, *, html: bool = False) -> str:
    if isinstance(value, datetime):
        return f"{value:%Y-%m-%d %H:%M:%S}.{value.microsecond // 1000:03}Z"
    if isinstance(value, Rows) and value:
        return f"{len(value)} × {type(value[0]).__name__}" if html else repr(value)
    if isinstance(value, dict | list | tuple):
        text = repr(value)
        return text if len(text) < 120 else text[:117] + "…"
    if value is None:
        return "–" if html else "None"
    return printable(value)


class Constituent(Answer):
    """A venue's part in a value."""

    venue: str
    exchange: str
    market: str
    region: str | None
    used: bool
    reason: str | None
    share: float | None
    mid: float | None
    age_ms: int | None

    _shown = ("venue", "used", "share", "mid", "reason")


class Regional(Answer):
    """The index of one region in its own currency."""

    currency: str
    value: float | None
    status: str
    reason: str | None
    single_source: bool | None
    unjudged: bool | None
    confidence: float | None
    median_capped: float | None
    alarm: bool | None
    twap_1m: float | None

    _shown = ("value", "currency", "status")


class ExecutablePremium(Answer):
    """The premium that is left after fees when a size trades at market."""

    size: float | None
    sell_kr: float | None
    buy_kr: float | None

    _shown = ("size", "sell_kr", "buy_kr")


class Premium(Answer):
    """The kimchi premium as fractions: `coin` against USDT, `fiat` against USD, `usdt` of USDT."""

    coin: float | None
    fiat: float | None
    usdt: float | None
    unjudged: bool | None
    executable: Rows[ExecutablePremium]

    _shown = ("coin", "fiat", "usdt")


class StoredQuotation(Answer):
    """What a source of USD/KRW said."""

    source: str
    rate: float
    daily: bool
    observed: datetime
    received: datetime

    _shown = ("source", "rate", "observed")


class RateQuotation(StoredQuotation):
    """What a source of USD/KRW said last."""

    age_ms: int


class UsdKrw(Answer):
    """KRW per USD, its source and status, and the quotations behind it."""

    ts: datetime
    rate: float | None
    status: str
    source: str | None
    observed: datetime | None
    age_ms: int | None
    sources: Rows[RateQuotation]

    _shown = ("rate", "status", "source", "observed")


class Liquidity(Answer):
    """The average price to sell or buy a size."""

    size: float | None
    bid: float | None
    ask: float | None

    _shown = ("size", "bid", "ask")


class TickValue(Answer):
    """One value of an index with everything that qualifies it."""

    asset: str
    ts: datetime
    status: str
    currency: str
    reason: str | None
    value: float | None
    value_krw: float | None
    best_bid: float | None
    best_ask: float | None
    fx: float | None
    fx_status: str | None
    usd_krw: float | None
    usd_krw_status: str | None
    usd_krw_source: str | None
    kr: Regional | None
    gl: Regional | None
    premium: Premium | None
    median_capped: float | None
    confidence: float | None
    twap_1m: float | None
    utilised_depth: float | None
    coverage_depth: float | None
    depth_limited: bool | None
    curve_end: str | None
    size_cap: float | None
    liquidity: Rows[Liquidity]
    split: bool | None
    failed: bool | None
    repeated: bool
    method_version: str | None
    parameter_hash: str | None
    constituents: Rows[Constituent]

    _shown = ("asset", "value", "currency", "status", "reason", "ts", "premium")


class IndexValue(TickValue):
    """The newest value of an index, with its age."""

    age_ms: int
    stale: bool
    stale_reason: str | None


class PremiumDay(Answer):
    """The range of a premium in the last 24 h; `percentile` is the place of the present one."""

    high: float | None
    low: float | None
    percentile: float | None
    minutes: int

    _shown = ("low", "high", "percentile")


class PremiumMoves(Answer):
    """How a premium moved, and its place among the samples of each window."""

    change_1m: float | None
    change_5m: float | None
    change_1h: float | None
    change_24h: float | None
    percentile_1h: float | None
    percentile_24h: float | None
    percentile_7d: float | None
    percentile_30d: float | None
    percentile_90d: float | None

    _shown = ("change_1h", "change_24h", "percentile_24h", "percentile_90d")


class PremiumBases(Answer):
    """How a premium moved on both bases."""

    coin: PremiumMoves
    fiat: PremiumMoves

    _shown = ("coin", "fiat")


class PremiumTrade(Answer):
    """What buying on one side and selling on the other leaves, by the best pair of venues."""

    direction: str
    buy: str
    sell: str
    size_krw: float
    coin: float | None
    fiat: float | None
    left_krw: float
    none_left_krw: float
    book_end: bool
    transfer: str
    cautions: list[str]

    _shown = ("direction", "buy", "sell", "size_krw", "coin", "fiat", "transfer")


class PremiumSize(Answer):
    """What a trade of a size leaves; None where no pair of books has the size."""

    size_krw: float
    buy: str | None
    sell: str | None
    coin: float | None
    fiat: float | None
    left_krw: float | None

    _shown = ("size_krw", "buy", "sell", "coin", "fiat")


class PremiumDirection(Answer):
    """Trades in one direction, and the size at which nothing is left."""

    direction: str
    none_left_krw: float
    book_end: bool
    buy: str | None
    sell: str | None
    transfer: str
    sizes: Rows[PremiumSize]

    _shown = ("direction", "none_left_krw", "transfer", "sizes")


class PremiumVenue(Answer):
    """A venue as one side of a trade."""

    venue: str
    region: str
    fee: float | None
    age_ms: int | None
    suspect: str | None
    wallet: str
    deposit: str
    withdraw: str
    trading: str
    caution: str
    flags: list[str]

    _shown = ("venue", "fee", "age_ms", "suspect", "wallet", "caution")


class PremiumTrades(Answer):
    """What trades of several sizes leave of a premium."""

    ts: datetime
    fees: dict[str, float]
    venues: Rows[PremiumVenue]
    directions: Rows[PremiumDirection]

    _shown = ("ts", "directions")


class PremiumSummary(Answer):
    """The kimchi premium of one asset now."""

    asset: str
    ts: datetime
    age_ms: int
    stale: bool
    stale_reason: str | None
    status: str
    reason: str | None
    kr: Regional | None
    gl: Regional | None
    fx: float | None
    fx_status: str | None
    usd_krw: float | None
    usd_krw_status: str | None
    usd_krw_source: str | None
    premium: Premium | None
    day: PremiumDay | None
    same_coin: str
    stats: PremiumBases
    trade: PremiumTrade | None

    _shown = ("asset", "premium", "day", "status", "reason", "kr", "gl", "fx", "ts")


class RankedPremium(PremiumSummary):
    """The kimchi premium of one asset of a list; `rank` is its place.

    `spark`: the last premium of each half hour of the last 24 h, where it was asked for.
    """

    rank: int | None
    spark: list[float]


class PremiumValue(PremiumSummary):
    """The kimchi premium of one asset now, with its venues and what trades leave of it."""

    constituents: Rows[Constituent]
    trades: PremiumTrades | None


class WindowStatistics(Answer):
    """A premium's samples in a window that ends now."""

    window: str
    samples: int
    of: int
    percentile: float | None
    mean: float | None
    deviation: float | None
    z: float | None
    high: float | None
    low: float | None

    _shown = ("window", "percentile", "mean", "deviation", "z")


class BasisStatistics(Answer):
    """A premium on one basis: how it moved, and how unusual it is."""

    premium: float | None
    change_1m: float | None
    change_5m: float | None
    change_1h: float | None
    change_24h: float | None
    as_high_ts: datetime | None
    as_low_ts: datetime | None
    windows: Rows[WindowStatistics]

    _shown = ("premium", "change_1h", "change_24h", "windows")


class PremiumStatistics(Answer):
    """The statistics of a premium on both bases; USDT has only `fiat`."""

    asset: str
    ts: datetime | None
    coin: BasisStatistics | None
    fiat: BasisStatistics | None

    _shown = ("asset", "ts", "coin", "fiat")


class Input(Answer):
    """The message that a venue's book came from."""

    publisher: str | None
    epoch: int
    sequence: int
    received: datetime | None

    _shown = ("publisher", "sequence", "received")


class CurveSegment(Answer):
    """A step of the price-volume curve."""

    start: float
    end: float
    bid: float
    ask: float
    mid: float
    spread: float
    weight: float

    _shown = ("start", "end", "mid", "weight")


class CurveLevel(Answer):
    """A level behind the curve."""

    price: float
    size: float
    capped: float
    cumulative: float
    venue: str

    _shown = ("price", "size", "venue")


class PriceVolumeCurve(Answer):
    """The curve whose weighted mid price is the value."""

    source: str
    levels_missing: int
    value: float | None
    difference: float | None
    rows_left_out: int
    segments: Rows[CurveSegment]
    bids: Rows[CurveLevel]
    asks: Rows[CurveLevel]

    _shown = ("value", "source", "levels_missing", "difference")


class Explanation(Answer):
    """One tick in full."""

    index: TickValue
    used: Rows[Constituent]
    excluded: Rows[Constituent]
    fx_venues: Rows[Constituent]
    flagged: list[str]
    inputs: dict[str, Input]
    curve: PriceVolumeCurve | None
    curve_reason: str | None
    live: bool

    _shown = ("index", "excluded", "curve", "curve_reason")


class _Sides(Answer):
    """A book: a table of it has a row per level."""

    bids: Any
    asks: Any

    def _rows(self) -> Iterable[dict[str, Any]]:
        for side in ("bids", "asks"):
            for number, level in enumerate(getattr(self, side)):
                yield {"side": side[:-1], "level": number, **self._level(level)}

    def _level(self, level: Any) -> dict[str, Any]:
        return {"price": level[0], "size": level[1]}

    def _numbers(self) -> list[str]:
        return ["price", "size"]

    def to_arrow(self) -> Any:
        """Return a pyarrow.Table: side (bid or ask), level (0 = best), price, size."""
        arrow = library("pyarrow")
        numbers = [(name, arrow.float64()) for name in self._numbers()]
        schema = arrow.schema([("side", arrow.string()), ("level", arrow.int64()), *numbers])
        return arrow.Table.from_pylist(list(self._rows()), schema=schema)

    def __repr__(self) -> str:
        best = [f"{side[:-1]} {self._best(side)}" for side in ("bids", "asks")]
        return f"{super().__repr__()[:-1]}, {', '.join(best)})"

    def _best(self, side: str) -> str:
        levels = getattr(self, side)
        if not levels:
            return "none"
        best = self._level(levels[0])
        return f"{best['price']} × {best['size']} ({len(levels)} levels)"


class Book(_Sides):
    """One exchange's book in its own currency; levels are (price, size), best first."""

    exchange: str
    market: str
    ts: datetime
    exchange_time: datetime | None
    age_ms: int
    stale: bool
    stale_reason: str | None
    status: str
    bids: list[tuple[float, float]]
    asks: list[tuple[float, float]]

    _shown = ("exchange", "market", "status", "ts")


class VenueSize(Answer):
    """One venue's size at a level."""

    venue: str
    size: float

    _shown = ("venue", "size")


class Level(Answer):
    """A level of the merged book."""

    price: float
    size: float
    venues: Rows[VenueSize]

    _shown = ("price", "size")


class Depth(Answer):
    """Size within a distance of the mid price."""

    within_percent: float
    bid: float
    ask: float

    _shown = ("within_percent", "bid", "ask")


class Profile(Answer):
    """Cumulative size of each venue by distance from the mid price."""

    step_percent: float
    mid: float
    bids: dict[str, list[float]]
    asks: dict[str, list[float]]

    _shown = ("step_percent", "mid")


class ConsolidatedBook(_Sides):
    """The merged book of an asset; a table of it has a column for each venue's size, too."""

    asset: str
    ts: datetime
    age_ms: int
    stale: bool
    stale_reason: str | None
    status: str
    currency: str
    fx: float | None
    bids: Rows[Level]
    asks: Rows[Level]
    depth: Rows[Depth]
    profile: Profile | None
    venues: Rows[Constituent]

    _shown = ("asset", "currency", "status", "ts")

    def _level(self, level: Level) -> dict[str, Any]:
        sizes = {one.venue: one.size for one in level.venues}
        return {"price": level.price, "size": level.size, **sizes}

    def _numbers(self) -> list[str]:
        return ["price", "size", *(one.venue for one in self.venues)]


class Ticker(Answer):
    """An exchange's current price."""

    exchange: str
    market: str
    ts: datetime
    exchange_time: datetime | None
    age_ms: int
    status: str
    stale_reason: str | None
    last: float | None
    open: float | None
    high: float | None
    low: float | None
    volume: float | None
    quote_volume: float | None
    change: float | None
    window: str | None
    bid: float | None
    bid_size: float | None
    ask: float | None
    ask_size: float | None

    _shown = ("exchange", "market", "last", "change", "volume", "status")


class Venue(Answer):
    """A venue as a source."""

    venue: str
    exchange: str
    market: str
    asset: str
    region: str | None
    state: str
    reason: str | None
    since: datetime | None
    age_ms: int | None
    used: bool | None
    share: float | None
    mid: float | None
    spread: float | None
    updates: int

    _shown = ("venue", "state", "reason", "used", "share", "mid")


class Asset(Answer):
    """An asset with its markets."""

    asset: str
    index: bool
    status: str | None
    stale: bool | None
    quotes: list[str]
    exchanges: list[str]
    markets: list[str]

    _shown = ("asset", "index", "status", "markets")


class WalletNetwork(Answer):
    """One network of a coin's wallet; None where the exchange does not say."""

    network: str
    deposit: bool | None
    withdraw: bool | None

    _shown = ("network", "deposit", "withdraw")


class MarketNotice(Answer):
    """A notice of an exchange that names the market's coin."""

    ts: datetime
    category: str
    title: str
    url: str

    _shown = ("ts", "title")


class MarketFacts(Answer):
    """Facts beside the price, as the exchange gives them in public; `unknown` where it does not."""

    ts: datetime | None
    deposit: str
    withdraw: str
    networks: Rows[WalletNetwork]
    trading: str
    detail: str | None
    caution: str
    flags: list[str]
    delisting: str | None
    notices: Rows[MarketNotice] | None

    _shown = ("deposit", "withdraw", "trading", "caution", "flags")


class Market(Answer):
    """A market that is collected."""

    venue: str
    exchange: str
    market: str
    base: str
    quote: str
    asset: str
    region: str | None
    index: bool
    state: str
    reason: str | None
    since: datetime | None
    book_ts: datetime | None
    ticker_ts: datetime | None
    trade_ts: datetime | None
    depth: int
    facts: MarketFacts

    _shown = ("venue", "asset", "index", "state", "reason", "book_ts")


class Gap(Answer):
    """A detected loss or outage."""

    ts: datetime
    publisher: str
    exchange: str | None
    market: str | None
    kind: str
    status: str
    reason: str | None
    first: int
    last: int
    count: int
    closed: datetime | None

    _shown = ("ts", "exchange", "market", "kind", "status", "count", "reason")


class Definition(Answer):
    """What the values of one index depend on besides books."""

    asset: str
    role: str
    effective: datetime | None
    method_version: str | None
    parameter_hash: str | None
    constituents: list[str]
    parameters: dict[str, Any]

    _shown = ("asset", "role", "effective", "parameter_hash")


class Methodology(Answer):
    """How the indices are computed."""

    interval_ms: int
    grace_ms: int
    definitions: Rows[Definition]
    announced: Rows[Definition] | None

    _shown = ("interval_ms", "grace_ms", "definitions")


class ProcessHealth(Answer):
    """A process of the platform."""

    process: str
    state: str
    reason: str | None
    age_ms: int
    uptime_s: int
    latency_us: int | None
    counters: dict[str, float]

    _shown = ("process", "state", "reason", "uptime_s", "latency_us")


class Readiness(Answer):
    """Whether live values are served and stored, and why not."""

    state: str
    reasons: list[str]

    _shown = ("state", "reasons")
