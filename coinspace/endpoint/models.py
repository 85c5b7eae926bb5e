"""The API's answers: every struct is a schema of the OpenAPI document.

Prices, sizes, rates and shares are decimal strings; times epoch ms; ages ms. `meanings.py` says
what each field means. A name that is one of a few words has a type with these words.
"""

from __future__ import annotations

from typing import Any, Literal

from msgspec import UNSET, Struct, UnsetType

from coinspace.endpoint.live.age import StaleReason
from coinspace.endpoint.shown import shows
from coinspace.endpoint.values import AgeMs, DecimalText, EpochMs, Number, Side
from coinspace.exchanges.facts import Trading, Wallet, Warning
from coinspace.method.record import (
    ExecutableRecord,
    IndexRecord,
    InputRecord,
    LiquidityRecord,
    Valuation,
    VenueRecord,
)

# of a record without a value. In tables it is "null", which pandas reads as a missing cell of CSV.
NO_VALUE: Literal["no_value"] = "no_value"
Status = Literal["ok", "degraded", "no_value"]
Currency = Literal["KRW", "USDT"]
Region = Literal["KR", "GL"]
FxStatus = Literal["ok", "held", "suspect", "none"]
# of USD/KRW; the last three have no rate
UsdKrwStatus = Literal[
    "ok", "closed", "late", "daily", "held", "fixed", "unconfirmed", "stale", "none"
]
Interval = Literal["1s", "1m", "5m", "1h", "1d"]
# of a premium: against USDT, against USD
Basis = Literal["coin", "fiat"]
PremiumInterval = Literal["1m", "5m", "1h", "1d"]
# windows of statistics
Stretch = Literal["1h", "24h", "7d", "30d", "90d"]
# of a trade: sell in Korea what was bought abroad, or buy in Korea
Direction = Literal["sell_kr", "buy_kr"]
# known: the registry of names has the asset. questioned: it has not, and the prices of the regions
# are too far apart. assumed: neither.
SameCoin = Literal["known", "assumed", "questioned"]
# why a record has no value
NoValue = Literal["too_few_venues", "insufficient_depth", "regime_split", "not_computed"]
# why a venue is left out
Exclusion = Literal[
    "operator", "disconnected", "halted", "resyncing", "clock_stepped", "clock", "delayed", "no_fx",
    "empty", "crossed", "frozen", "deviating",
]  # fmt: skip
MarketState = Literal[
    "connecting", "subscribed", "buffering", "synced", "stale", "quarantined", "disconnected",
    "halted", "unknown",
]  # fmt: skip
# of one market's book or ticker: `ok`, or else the state of the market
Condition = Literal["ok", "stored", MarketState]
GapKind = Literal[
    "orderbook", "ticker", "trade", "state", "venue", "index", "aggregate", "heartbeat", "rate",
    "fact",
]  # fmt: skip
GapStatus = Literal["open", "filled", "lost", "dead"]


@shows(VenueRecord, reason=Exclusion | None)
class Constituent(Struct, kw_only=True):
    """A venue's contribution to a value; `share` is its part of the curve's weight, 0 to 1."""

    venue: str
    exchange: str
    market: str
    region: Region | None


@shows(Valuation, currency=Currency, reason=NoValue | None)
class Regional(Struct, kw_only=True):
    """The index of one region in its own currency; `value` is null with a reason without one.

    `median_capped` is an independent check; `alarm` is true when it differs too much from `value`.
    `unjudged`: every venue of the region deviates, and the value comes from them nevertheless.
    """

    value: Number
    status: Status


@shows(ExecutableRecord)
class ExecutablePremium(Struct, kw_only=True):
    """The premium after fees when both legs of a size trade at market."""


@shows(LiquidityRecord)
class Liquidity(Struct, kw_only=True):
    """Average price to sell (`bid`) or buy (`ask`) a size into the summed book."""


class Premium(Struct, kw_only=True):
    """Korean premium as fractions: `coin` against USDT, `fiat` against USD, `usdt` of USDT itself.

    `fiat` and `usdt` are null without a USD/KRW reference rate. `unjudged`: the venues or the rate
    behind the premium have only suspect books.
    """

    coin: Number
    fiat: Number
    usdt: Number
    unjudged: bool | None
    executable: list[ExecutablePremium] = []


@shows(
    IndexRecord,
    reason=NoValue | None,
    fx_status=FxStatus | None,
    usd_krw_status=UsdKrwStatus | None,
    curve_end=Literal["D", "exhausted"] | None,
)
class IndexValue(Struct, kw_only=True):
    """One index value with everything that qualifies it.

    `repeated`: the clock was set back, and an earlier value of this instant is stored. The earlier
    value stays, this one is not stored.
    """

    asset: str
    ts: EpochMs
    currency: Currency
    status: Status
    kr: Regional | None
    gl: Regional | None
    premium: Premium | None
    liquidity: list[Liquidity]
    constituents: list[Constituent]


class LatestIndexValue(IndexValue, kw_only=True):
    """The newest value, its age, and whether it is too old to rely on."""

    age_ms: AgeMs
    stale: bool
    stale_reason: StaleReason | None


class Indices(Struct):
    """The newest value of every index; `missing` lists the assets without a value yet."""

    indices: list[LatestIndexValue]
    missing: list[str]


class IndexPoint(Struct):
    """One stored value."""

    ts: EpochMs
    status: Status
    reason: NoValue | None
    value: Number
    kr: Number
    gl: Number
    value_krw: Number
    premium: Number
    fx: Number
    fx_status: FxStatus | None
    best_bid: Number
    best_ask: Number
    n_used: int


class IndexPage(Struct, kw_only=True):
    """A page of stored values, oldest first; `next` is the address of the next page."""

    asset: str
    currency: Currency
    start: EpochMs
    end: EpochMs
    values: list[IndexPoint]
    cursor: str | None
    next: str | None


class Candle(Struct):
    """A candle over [ts, ts + interval); prices are null when the interval has no value.

    `kr`, `gl`, `premium` and `fx` are the last ones; `ticks` counts records, `valid` values.
    """

    ts: EpochMs
    open: Number
    high: Number
    low: Number
    close: Number
    kr: Number
    gl: Number
    premium: Number
    fx: Number
    ticks: int
    valid: int
    closed: bool


class CandlePage(Struct, kw_only=True):
    """Candles, oldest first, one for each interval: nulls when an interval has no value."""

    asset: str
    currency: Currency
    interval: Interval
    start: EpochMs
    end: EpochMs
    candles: list[Candle]
    cursor: str | None
    next: str | None


@shows(InputRecord)
class Input(Struct, kw_only=True):
    """The message that a venue's book came from."""


class CurveSegment(Struct, kw_only=True):
    """A step of the curve: a trade of a volume in (start, end] reaches these prices.

    `weight` is the step's part of the value, 0 beyond the utilised depth.
    """

    start: DecimalText
    end: DecimalText
    bid: DecimalText
    ask: DecimalText
    mid: DecimalText
    spread: DecimalText
    weight: DecimalText


class CurveLevel(Struct, kw_only=True):
    """A used level, best first: its size, the size after the size cap, the sum of capped sizes."""

    price: DecimalText
    size: DecimalText
    capped: DecimalText
    cumulative: DecimalText
    venue: str


class PriceVolumeCurve(Struct, kw_only=True):
    """The curve whose weighted mid price is the value, and the levels behind the curve.

    `summed_book`: the curve of the tick's own book. `stored_books`: a curve of the tick's inputs as
    stored, which lack `levels_missing` of the published levels. Its `value` differs from the
    published value by the fraction `difference`.
    """

    source: Literal["summed_book", "stored_books"]
    levels_missing: int
    value: Number
    difference: Number
    rows_left_out: int
    segments: list[CurveSegment]
    bids: list[CurveLevel]
    asks: list[CurveLevel]


class Explanation(Struct, kw_only=True):
    """One tick in full: the value, its constituents and exclusions, FX, inputs, the curve.

    `curve_reason` says why there is no curve. `coinspace compute-index --explain` recomputes the
    exact curve of any tick from recordings.
    """

    index: IndexValue
    used: list[Constituent]
    excluded: list[Constituent]
    fx_venues: list[Constituent]
    flagged: list[str]
    inputs: dict[str, Input]
    curve: PriceVolumeCurve | None
    curve_reason: str | None
    live: bool


class PremiumMoves(Struct):
    """How a premium moved, and the share of samples at or below it in each window.

    In a delta of a stream only the numbers that changed are there.
    """

    change_1m: Number | UnsetType = UNSET
    change_5m: Number | UnsetType = UNSET
    change_1h: Number | UnsetType = UNSET
    change_24h: Number | UnsetType = UNSET
    percentile_1h: Number | UnsetType = UNSET
    percentile_24h: Number | UnsetType = UNSET
    percentile_7d: Number | UnsetType = UNSET
    percentile_30d: Number | UnsetType = UNSET
    percentile_90d: Number | UnsetType = UNSET


class PremiumBases(Struct):
    """How a premium moved on both bases; in a delta of a stream only what changed is there."""

    coin: PremiumMoves | UnsetType = UNSET
    fiat: PremiumMoves | UnsetType = UNSET


class PremiumTrade(Struct, kw_only=True):
    """What buying on one side and selling on the other leaves, by the best pair of venues."""

    direction: Direction
    buy: str
    sell: str
    size_krw: DecimalText
    coin: Number
    fiat: Number
    left_krw: DecimalText
    none_left_krw: DecimalText
    book_end: bool
    transfer: Wallet
    cautions: list[str]


class PremiumSize(Struct, kw_only=True):
    """What a trade of a size leaves; nulls where no pair of books has the size."""

    size_krw: DecimalText
    buy: str | None
    sell: str | None
    coin: Number
    fiat: Number
    left_krw: Number


class PremiumDirection(Struct, kw_only=True):
    """Trades in one direction, and the size at which nothing is left."""

    direction: Direction
    none_left_krw: DecimalText
    book_end: bool
    buy: str | None
    sell: str | None
    transfer: Wallet
    sizes: list[PremiumSize]


class PremiumVenue(Struct, kw_only=True):
    """A venue as one side of a trade."""

    venue: str
    region: Region
    fee: Number
    age_ms: AgeMs | None
    suspect: Exclusion | None
    wallet: Wallet
    deposit: Wallet
    withdraw: Wallet
    trading: Trading
    caution: Warning
    flags: list[str]


class PremiumTrades(Struct, kw_only=True):
    """What trades of several sizes leave of a premium, after both fees and both books."""

    ts: EpochMs
    fees: dict[str, DecimalText]
    venues: list[PremiumVenue]
    directions: list[PremiumDirection]


class PremiumDay(Struct, kw_only=True):
    """The range of a premium in the last 24 h, by the last premium of each minute."""

    high: Number
    low: Number
    percentile: Number
    minutes: int


class PremiumSummary(Struct, kw_only=True):
    """The premium of one asset now, and the regional values behind it."""

    asset: str
    ts: EpochMs
    age_ms: AgeMs
    stale: bool
    stale_reason: StaleReason | None
    status: Status
    reason: NoValue | Literal["no_regional_value"] | None
    kr: Regional | None
    gl: Regional | None
    fx: Number
    fx_status: FxStatus | None
    usd_krw: Number
    usd_krw_status: UsdKrwStatus | None
    usd_krw_source: str | None
    premium: Premium | None
    day: PremiumDay | None
    same_coin: SameCoin
    stats: PremiumBases
    trade: PremiumTrade | None


class RankedPremium(PremiumSummary, kw_only=True):
    """A premium of a list; `rank` is its place, null for one that may be of two coins."""

    rank: int | None
    spark: list[float | None] | UnsetType = UNSET


class PremiumValue(PremiumSummary, kw_only=True):
    """The premium of one asset now, with the venues behind it and what trades leave of it."""

    constituents: list[Constituent]
    trades: PremiumTrades | None


class PremiumUsdt(Struct, kw_only=True):
    """The premium of USDT itself: KRW per USDT against KRW per USD."""

    ts: EpochMs
    fx: Number
    fiat: Number
    stats: PremiumMoves


class Premiums(Struct, kw_only=True):
    """The premiums of all assets that have one now."""

    ts: EpochMs
    premiums: list[RankedPremium]
    missing: list[str]
    usdt: PremiumUsdt | None
    fees: dict[str, DecimalText]


class WindowStatistics(Struct, kw_only=True):
    """A premium's samples in a window that ends now; null where there are too few."""

    window: Stretch
    samples: int
    of: int
    percentile: Number
    mean: Number
    deviation: Number
    z: Number
    high: Number
    low: Number


class BasisStatistics(Struct):
    """A premium on one basis: how it moved, and how unusual it is."""

    premium: Number
    change_1m: Number
    change_5m: Number
    change_1h: Number
    change_24h: Number
    as_high_ts: EpochMs | None
    as_low_ts: EpochMs | None
    windows: list[WindowStatistics]


class PremiumStatistics(Struct, kw_only=True):
    """The statistics of a premium on both bases, as of its newest tick."""

    asset: str
    ts: EpochMs | None
    coin: BasisStatistics | None
    fiat: BasisStatistics | None


class PremiumPoint(Struct):
    """The premium of one stored tick, on every basis."""

    ts: EpochMs
    status: Status
    reason: NoValue | None
    coin: Number
    fiat: Number
    usdt: Number
    kr: Number
    gl: Number
    fx: Number
    fx_status: FxStatus | None


class PremiumPage(Struct, kw_only=True):
    """A page of stored premiums, oldest first; `next` is the address of the next page."""

    asset: str
    start: EpochMs
    end: EpochMs
    values: list[PremiumPoint]
    cursor: str | None
    next: str | None


class PremiumCandle(Struct):
    """A candle of a premium over [ts, ts + interval); nulls when the interval has no premium.

    `kr`, `gl` and `fx` are the last ones; `ticks` counts records, `valid` those with a premium.
    """

    ts: EpochMs
    open: Number
    high: Number
    low: Number
    close: Number
    kr: Number
    gl: Number
    fx: Number
    ticks: int
    valid: int
    closed: bool


class PremiumCandlePage(Struct, kw_only=True):
    """Candles of a premium, oldest first, one for each interval."""

    asset: str
    basis: Basis
    interval: PremiumInterval
    start: EpochMs
    end: EpochMs
    candles: list[PremiumCandle]
    cursor: str | None
    next: str | None


class PremiumRow(Struct, kw_only=True):
    """One asset of a `premiums` event; in a delta only the fields that changed are there."""

    asset: str
    ts: EpochMs | UnsetType = UNSET
    stale: bool | UnsetType = UNSET
    status: Status | UnsetType = UNSET
    kr: Number | UnsetType = UNSET
    gl: Number | UnsetType = UNSET
    coin: Number | UnsetType = UNSET
    fiat: Number | UnsetType = UNSET
    unjudged: bool | UnsetType | None = UNSET
    same_coin: SameCoin | UnsetType = UNSET
    stats: PremiumBases | UnsetType = UNSET
    trade: PremiumTrade | UnsetType | None = UNSET


class PremiumsEvent(Struct, kw_only=True):
    """The premiums of all assets: first all of them, then what changed since the event before."""

    ts: EpochMs
    full: bool
    premiums: list[PremiumRow]
    missing: list[str]
    usdt: PremiumUsdt | UnsetType | None = UNSET


class StoredQuotation(Struct, kw_only=True):
    """What a source of USD/KRW said, and when it was received."""

    source: str
    rate: DecimalText
    daily: bool
    observed: EpochMs
    received: EpochMs


class RateQuotation(StoredQuotation, kw_only=True):
    """What a source of USD/KRW said last."""

    age_ms: AgeMs


class UsdKrw(Struct, kw_only=True):
    """USD/KRW of the newest index records, and the quotations behind it, in order of trust."""

    ts: EpochMs
    rate: Number
    status: UsdKrwStatus
    source: str | None
    observed: EpochMs | None
    age_ms: AgeMs | None
    sources: list[RateQuotation]


class QuotationPage(Struct, kw_only=True):
    """Stored quotations of USD/KRW, newest first; a source's unchanged ones are stored once."""

    quotations: list[StoredQuotation]
    cursor: str | None
    next: str | None


class VenueSize(Struct):
    """One venue's size at a level."""

    venue: str
    size: DecimalText


class Level(Struct, kw_only=True):
    """A price level of the summed book, with each venue's size."""

    price: DecimalText
    size: DecimalText
    venues: list[VenueSize]


class Depth(Struct, kw_only=True):
    """Size in base units within a distance of the mid price, per side."""

    within_percent: DecimalText
    bid: DecimalText
    ask: DecimalText


class Profile(Struct, kw_only=True):
    """Cumulative size per venue by distance from the mid price, in steps of `step_percent`.

    `bids["upbit:BTC/KRW"][i]` is that venue's size at or above mid x (1 - i x step).
    """

    step_percent: DecimalText
    mid: DecimalText
    bids: dict[str, list[float]]
    asks: dict[str, list[float]]


class ConsolidatedBook(Struct, kw_only=True):
    """The summed book of an asset in index currency, best first."""

    asset: str
    ts: EpochMs
    age_ms: AgeMs
    stale: bool
    stale_reason: StaleReason | None
    status: Status
    currency: Currency
    fx: Number
    bids: list[Level]
    asks: list[Level]
    depth: list[Depth]
    profile: Profile | None
    venues: list[Constituent]


class Book(Struct, kw_only=True):
    """One exchange's book in its own quote currency: levels are [price, size], best first."""

    exchange: str
    market: str
    ts: EpochMs
    exchange_time: EpochMs | None
    age_ms: AgeMs
    stale: bool
    stale_reason: StaleReason | None
    status: Condition
    bids: Side
    asks: Side


class StoredBook(Struct):
    """One exchange's book as stored: the levels of `storage.depth` at most, best first."""

    ts: EpochMs
    exchange_time: EpochMs | None
    exchange: str
    market: str
    bids: Side
    asks: Side


class BookPage(Struct, kw_only=True):
    """Stored books, oldest first; `next` is the address of the next page."""

    start: EpochMs
    end: EpochMs
    orderbooks: list[StoredBook]
    cursor: str | None
    next: str | None


class Ticker(Struct, kw_only=True):
    """An exchange's current price; `window` is the time range of open, high, low and change."""

    exchange: str
    market: str
    ts: EpochMs
    exchange_time: EpochMs | None
    age_ms: AgeMs
    status: Condition
    stale_reason: StaleReason | None
    last: Number
    open: Number
    high: Number
    low: Number
    volume: Number
    quote_volume: Number
    change: Number
    window: Literal["24h", "utc_day", "kst_day"] | None
    bid: Number
    bid_size: Number
    ask: Number
    ask_size: Number


class Tickers(Struct):
    """The newest ticker of every market asked for."""

    tickers: list[Ticker]


class Trade(Struct, kw_only=True):
    """A trade; `side` is that of the taker."""

    ts: EpochMs
    exchange: str
    market: str
    price: DecimalText
    size: DecimalText
    side: Literal["buy", "sell"]
    trade_id: str


class TradePage(Struct):
    """Trades, oldest first."""

    trades: list[Trade]
    cursor: str | None
    next: str | None


class Venue(Struct, kw_only=True):
    """A venue as a source: state and age of its book, and its share in the index."""

    venue: str
    exchange: str
    market: str
    asset: str
    region: Region | None
    state: MarketState
    reason: str | None
    since: EpochMs | None
    age_ms: AgeMs | None
    used: bool | None
    share: Number
    mid: Number
    spread: Number
    updates: int


class Venues(Struct):
    """All venues."""

    ts: EpochMs
    venues: list[Venue]


class Asset(Struct, kw_only=True):
    """An asset: its markets, and the state of its index where it has one."""

    asset: str
    index: bool
    status: Status | None
    stale: bool | None
    quotes: list[str]
    exchanges: list[str]
    markets: list[str]


class Assets(Struct):
    """All assets."""

    ts: EpochMs
    assets: list[Asset]


class WalletNetwork(Struct, kw_only=True):
    """One network of a coin's wallet; null where the exchange does not say."""

    network: str
    deposit: bool | None
    withdraw: bool | None


class MarketNotice(Struct, kw_only=True):
    """A notice of an exchange that names the market's coin."""

    ts: EpochMs
    category: str
    title: str
    url: str


class MarketFacts(Struct, kw_only=True):
    """Facts beside the price, as the exchange gives them in public; `unknown` where it does not.

    They never change a value or a share. `ts` is when the collector last published them.
    """

    ts: EpochMs | None
    deposit: Wallet
    withdraw: Wallet
    networks: list[WalletNetwork]
    trading: Trading
    detail: str | None
    caution: Warning
    flags: list[str]
    delisting: str | None
    notices: list[MarketNotice] | None


class Market(Struct, kw_only=True):
    """A market that is collected: its state, and the times of its newest messages."""

    venue: str
    exchange: str
    market: str
    base: str
    quote: str
    asset: str
    region: Region | None
    index: bool
    state: MarketState
    reason: str | None
    since: EpochMs | None
    book_ts: EpochMs | None
    ticker_ts: EpochMs | None
    trade_ts: EpochMs | None
    depth: int
    facts: MarketFacts


class Markets(Struct):
    """All markets."""

    ts: EpochMs
    markets: list[Market]


class Gap(Struct, kw_only=True):
    """A detected loss: messages `first` to `last` of a publisher, or a venue's outage.

    `status`: open (being fetched), filled, lost, dead (refused by the database).
    """

    ts: EpochMs
    publisher: str
    exchange: str | None
    market: str | None
    kind: GapKind
    status: GapStatus
    reason: str | None
    first: int
    last: int
    count: int
    closed: EpochMs | None


class GapPage(Struct):
    """Gaps, newest first."""

    gaps: list[Gap]
    cursor: str | None
    next: str | None


class Definition(Struct, kw_only=True):
    """Everything besides books that the values of one index depend on."""

    asset: str
    role: Literal["live", "next"]
    effective: EpochMs | None
    method_version: str | None
    parameter_hash: str | None
    constituents: list[str]
    parameters: dict[str, Any]


class Methodology(Struct, kw_only=True):
    """How the indices are computed now, and every announced definition."""

    interval_ms: int
    grace_ms: int
    definitions: list[Definition]
    announced: list[Definition] | None


class ProcessHealth(Struct, kw_only=True):
    """A process of the platform, from its health file.

    `latency_us`: median from receipt (for aggregator and calculator: from the tick) to publishing,
    over the last messages on the bus; null for processes that publish none.
    """

    process: str
    state: Literal["starting", "ready", "degraded", "stopping", "stopped", "unknown"]
    reason: str | None
    age_ms: int
    uptime_s: int
    latency_us: int | None
    counters: dict[str, float]


class Pipeline(Struct):
    """All processes."""

    ts: EpochMs
    processes: list[ProcessHealth]


class Readiness(Struct):
    """Whether data is served, and the reasons when it is not."""

    state: Literal["ready", "degraded"]
    reasons: list[str]


class Liveness(Struct):
    """The process answers."""

    state: Literal["ok"]


class GapsEvent(Struct):
    """Losses on the bus that the endpoint itself has noticed."""

    gaps: list[Gap]


class Heartbeat(Struct):
    """The stream is alive."""

    ts: EpochMs


class StreamGap(Struct, kw_only=True):
    """Events were lost: a resume was not possible, or the client reads too slowly."""

    channel: str
    reason: Literal["resume", "slow"]
    missed: int | UnsetType = UNSET
    last_event_id: str | UnsetType = UNSET


class Shutdown(Struct):
    """The server ends the stream."""

    reason: str


class Hello(Struct):
    """The first message of a WebSocket."""

    boot: str
    ts: EpochMs


class Channels(Struct):
    """Channels that were added to a WebSocket or removed from it."""

    channels: list[str]
    id: int | str | UnsetType = UNSET


class Pong(Struct):
    """The answer to `ping`."""

    ts: EpochMs
    id: int | str | UnsetType = UNSET
