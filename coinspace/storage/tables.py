"""The declaration of the tables: every column, key, partition and view.

A row's `ts` is its receive time, or a trade's trade time. It never changes, so a row that is sent
twice replaces itself. The keys distinguish messages by the publisher's epoch and sequence, trades
by their id, index values by their asset. `exchange_ts` is not in a key: it can be null, repeated or
minutes old.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from msgspec import Struct

from coinspace.clock import HOUR_NS, MINUTE_NS, SECOND_NS
from coinspace.config import RATE_COLLECTOR
from coinspace.method.record import IndexRecord, InputRecord, Kind, VenueRecord, facts
from coinspace.storage.parts import part_columns

TIME = "TIMESTAMP_NS"
EXCHANGE = ("exchange", "SYMBOL")
MARKET = ("market", "SYMBOL")
CAPACITY = {"exchange": 64, "market": 4096, "venue": 4096, "asset": 1024, "side": 4}


@dataclass(frozen=True, slots=True)
class Table:
    """One table.

    Attributes:
        keys: of deduplication. ttl: the default, "" keeps rows for ever.
    """

    name: str
    columns: tuple[tuple[str, str], ...]
    keys: tuple[str, ...]
    partition: str = "DAY"
    ttl: str = ""

    @property
    def hashed(self) -> int:
        """Number of columns up to `ts`; later columns were added and are null in old rows."""
        return [name for name, _ in self.columns].index("ts") + 1

    def create(self, ttl: str) -> str:
        """Return the CREATE statement. Args: ttl: as SQL, "" keeps rows for ever."""
        return (
            f"CREATE TABLE IF NOT EXISTS {self.name} ("
            + ", ".join(f"{name} {_declared(name, kind)}" for name, kind in self.columns)
            + f") TIMESTAMP(ts) PARTITION BY {self.partition}"
            + (f" TTL {ttl}" if ttl else "")
            + f" WAL DEDUP UPSERT KEYS({', '.join(self.keys)})"
        )


@dataclass(frozen=True, slots=True)
class View:
    """A materialized view over a table or another view."""

    name: str
    base: str
    select: str
    interval: str
    partition: str
    ttl: str = ""

    @property
    def length_ns(self) -> int:
        """Length of a candle."""
        return {"1s": SECOND_NS, "1m": MINUTE_NS, "1h": HOUR_NS}[self.interval]

    def create(self, ttl: str) -> str:
        """Return the CREATE statement. Args: ttl: as SQL, "" keeps rows for ever."""
        return (
            f"CREATE MATERIALIZED VIEW IF NOT EXISTS {self.name} WITH BASE {self.base}"
            f" REFRESH IMMEDIATE AS (SELECT {self.select} FROM {self.base}"
            f" SAMPLE BY {self.interval}) PARTITION BY {self.partition}"
            + (f" TTL {ttl}" if ttl else "")
        )


def _declared(name: str, kind: str) -> str:
    if kind == "SYMBOL" and name in CAPACITY:
        return f"SYMBOL CAPACITY {CAPACITY[name]}"
    return kind


def several(kind: str, names: str) -> tuple[tuple[str, str], ...]:
    """Return columns of one type."""
    return tuple((name, kind) for name in names.split())


# the identity of a message: its publisher's epoch and its sequence
IDENTITY = several("LONG", "epoch seq")
TIMES = several(TIME, "exchange_ts published_ts ts")

ORDERBOOK = Table(
    "orderbook",
    (
        EXCHANGE,
        MARKET,
        *several("DOUBLE", "bid bid_size ask ask_size"),
        # [[prices], [sizes]], best first, at most storage.depth levels
        *several("DOUBLE[][]", "bids asks"),
        # levels as published
        *several("INT", "n_bids n_asks"),
        ("update_id", "LONG"),
        ("flags", "INT"),
        *IDENTITY,
        *TIMES,
    ),
    keys=("ts", "exchange", "market", "epoch", "seq"),
    partition="HOUR",
    ttl="7 DAYS",
)

TICKER = Table(
    "ticker",
    (
        EXCHANGE,
        MARKET,
        *several(
            "DOUBLE", "last open high low volume quote_volume change bid bid_size ask ask_size"
        ),
        # window of open, high, low and change
        ("span", "SYMBOL"),
        ("flags", "INT"),
        *IDENTITY,
        *TIMES,
    ),
    keys=("ts", "exchange", "market", "epoch", "seq"),
    ttl="90 DAYS",
)

TRADE = Table(
    "trade",
    (
        EXCHANGE,
        MARKET,
        # of the taker
        ("side", "SYMBOL"),
        *several("DOUBLE", "price size"),
        ("trade_id", "LONG"),
        # of an aggregate: number of trades, with ids from trade_id on; null = one trade
        ("n_trades", "INT"),
        ("flags", "INT"),
        *IDENTITY,
        *several(TIME, "received_ts published_ts"),
        # the exchange's trade time
        ("ts", TIME),
    ),
    keys=("ts", "exchange", "market", "trade_id"),
    ttl="90 DAYS",
)

RATE = Table(
    "rate",
    (
        # the source, and USD/KRW
        EXCHANGE,
        MARKET,
        # quote units per base unit
        ("rate", "DOUBLE"),
        # of a source that quotes once a bank day
        ("daily", "BOOLEAN"),
        # the bank's number of the quotation on its day, 0 = none
        ("round", "LONG"),
        *IDENTITY,
        # exchange_ts: the source's time
        *TIMES,
    ),
    keys=("ts", "exchange", "market", "epoch", "seq"),
    partition="MONTH",
)

FACT = Table(
    "fact",
    (
        EXCHANGE,
        MARKET,
        # open, partial, closed, unknown; open, limited, suspended, unknown; none to danger, unknown
        *several("SYMBOL", "deposit withdraw trading warning"),
        # names of warnings, by comma; why trading is not open; day on which it ends
        *several("VARCHAR", "flags detail delisting"),
        # JSON: each network; the newest notices
        *several("VARCHAR", "networks notices"),
        *IDENTITY,
        *several(TIME, "published_ts ts"),
    ),
    keys=("ts", "exchange", "market", "epoch", "seq"),
    partition="MONTH",
)

STATE = Table(
    "state",
    (
        ("publisher", "SYMBOL"),
        EXCHANGE,
        MARKET,
        ("state", "SYMBOL"),
        ("reason", "VARCHAR"),
        ("since_ts", TIME),
        *IDENTITY,
        *several(TIME, "published_ts ts"),
    ),
    keys=("ts", "publisher", "exchange", "market", "epoch", "seq"),
)

GAP = Table(
    "gap",
    (
        # orderbook, ticker, trade, state: a kind of message; venue: an outage of the venue;
        # index: ticks not computed (market = asset, first and last in ns)
        ("kind", "SYMBOL"),
        # or the worker that has to store a kind again because its table's columns were changed
        ("publisher", "SYMBOL"),
        EXCHANGE,
        MARKET,
        # open: messages being fetched, or an outage that lasts; filled: fetched, or over;
        # lost: in no journal any more; dead: refused by the database
        ("status", "SYMBOL"),
        ("reason", "VARCHAR"),
        ("epoch", "LONG"),
        # sequences first..last, both included; 0 for a venue's outage
        *several("LONG", "first last count"),
        ("closed_ts", TIME),
        # time when the gap was found
        ("ts", TIME),
    ),
    keys=("ts", "kind", "publisher", "exchange", "market", "epoch", "first"),
    partition="MONTH",
)

# The order in which the records of a day are hashed; it must never be changed or extended. A new
# field of the structs gets its column after these, so that earlier days keep their hash.
_TICK_ORDER = (
    "asset status reason value value_raw value_full curve_end utilised_depth lambda size_cap"
    " coverage_depth depth_limited fx fx_status best_bid best_ask kr gl value_krw premium"
    " confidence median_capped twap n_used n_venues flagged fx_flagged split failed siblings"
    " method_version parameter_hash latency_ns epoch seq original recalc_id operator because ts"
)
_VENUE_ORDER = (
    "asset role venue mid age_ms used reason share publisher epoch seq received_ts changed_ts ts"
)

# type of a field's column
_TYPES: dict[Kind | None, str] = {
    Kind.NAME: "SYMBOL",
    Kind.NAMES: "VARCHAR",
    Kind.FLAG: "BOOLEAN",
    Kind.COUNT: "LONG",
    Kind.INSTANT: TIME,
}


def columns_of(record: type[Struct]) -> tuple[tuple[str, str], ...]:
    """Return the columns of a struct's fields, by name and type."""
    return tuple(
        (one.column, _TYPES.get(one.kind, "DOUBLE")) for one in facts(record) if one.column
    )


def in_order(order: str, columns: Iterable[tuple[str, str]]) -> tuple[tuple[str, str], ...]:
    """Return columns in a fixed order of names; other columns come last."""
    place = {name: number for number, name in enumerate(order.split())}
    return tuple(sorted(columns, key=lambda one: place.get(one[0], len(place))))


def record_table(
    name: str,
    record: type[Struct] = IndexRecord,
    *more: tuple[str, str],
    keys: tuple[str, ...] = ("ts", "asset"),
    ttl: str = "",
) -> Table:
    """Return a table of records with `more` columns."""
    columns = (
        *columns_of(record),
        ("n_used", "INT"),
        ("n_venues", "INT"),
        # JSON: parts without columns of their own
        ("siblings", "VARCHAR"),
        # of the aggregate that the record was computed from
        *IDENTITY,
        *more,
        ("ts", TIME),
        *part_columns(),
    )
    order = " ".join([_TICK_ORDER, *(column for column, _ in part_columns())])
    return Table(name, in_order(order, columns), keys, ttl=ttl)


# every tick for days; candles of a second, a minute and an hour stay longer
INDEX_TTL = "7 DAYS"
INDEX_TICK = record_table("index_tick", ttl=INDEX_TTL)
# ticks of a candidate parameter set
INDEX_NEXT = record_table("index_next", keys=("ts", "asset", "parameter_hash"))
INDEX_RECALC = record_table(
    "index_recalc",
    IndexRecord,
    ("original", "DOUBLE"),
    ("recalc_id", "LONG"),
    ("operator", "SYMBOL"),
    ("because", "VARCHAR"),
    keys=("ts", "asset", "recalc_id"),
)
INDEX_VENUE = Table(
    "index_venue",
    in_order(
        _VENUE_ORDER,
        (
            ("asset", "SYMBOL"),
            # constituent; or fx: a USDT/KRW book, once per tick under the asset USDT
            ("role", "SYMBOL"),
            # exchange:BASE/QUOTE
            ("venue", "SYMBOL"),
            *columns_of(VenueRecord),
            *columns_of(InputRecord),
            ("ts", TIME),
        ),
    ),
    keys=("ts", "asset", "role", "venue"),
    ttl=INDEX_TTL,
)
METHODOLOGY = Table(
    "methodology",
    (
        ("asset", "SYMBOL"),
        # live; or next: announced and computed beside the live one
        ("role", "SYMBOL"),
        ("method_version", "LONG"),
        ("parameter_hash", "SYMBOL"),
        # JSON: parameters, constituents, input depths
        ("definition", "VARCHAR"),
        ("ts", TIME),
    ),
    keys=("ts", "asset", "role", "parameter_hash"),
    partition="YEAR",
)
OPERATOR_LOG = Table(
    "operator_log",
    (
        *several("SYMBOL", "operator action"),
        *several("VARCHAR", "target detail"),
        ("entry", "LONG"),
        ("ts", TIME),
    ),
    keys=("ts", "operator", "action", "entry"),
    partition="YEAR",
)
# one link a day: hash of the day's records and of the link before
INDEX_CHAIN = Table(
    "index_chain",
    (
        ("records", "LONG"),
        # SHA-256 in hex: of the day's records, of the link before, and of both
        *several("VARCHAR", "digest previous link"),
        # start of the UTC day
        ("ts", TIME),
    ),
    keys=("ts",),
    partition="YEAR",
)

TABLES = (
    ORDERBOOK,
    TICKER,
    TRADE,
    RATE,
    FACT,
    STATE,
    GAP,
    INDEX_TICK,
    INDEX_VENUE,
    INDEX_NEXT,
    INDEX_RECALC,
    METHODOLOGY,
    OPERATOR_LOG,
    INDEX_CHAIN,
)

# storage worker -> its publishers' collector, and the kinds of messages, whose tables it fills; it
# stores them again when a table's columns were damaged
STORED = {
    "orderbook-storage-worker": ("orderbook-collector", ("orderbook", "state")),
    "ticker-storage-worker": ("ticker-collector", ("ticker", "trade", "fact", "state")),
}
# this one also stores the quotations of the process that has no exchange
RATE_WORKER = "ticker-storage-worker"


def kind_of(worker: str) -> str:
    """Return the name of a storage worker without its number."""
    return next(kind for kind in STORED if worker.startswith(kind))


def kinds_of(worker: str) -> tuple[str, ...]:
    """Return the kinds of messages that a storage worker stores."""
    kind = kind_of(worker)
    kinds = STORED[kind][1]
    return (*kinds, RATE.name) if kind == RATE_WORKER else kinds


def collectors_of(
    worker: str, exchanges: Iterable[str], *, rates: bool = True
) -> dict[str, tuple[str, ...]]:
    """Return publisher -> the kinds of its messages that a storage worker stores.

    Args: rates: whether there is a collector of rates.
    """
    kind = kind_of(worker)
    collector, kinds = STORED[kind]
    found = {f"{collector}-{name}": kinds for name in exchanges}
    if kind == RATE_WORKER and rates:
        found[RATE_COLLECTOR] = (RATE.name,)
    return found


# Trades of equal time are ordered by id, not by arrival. The sort key has the ns within the second
# above the lowest 33 bits of the id: ids of one instant differ by less than that.
_ORDER = "(ts::long % 1000000000L) * 8589934592L + trade_id % 8589934592L"
_ROLLED = (
    "first(open) open, max(high) high, min(low) low, last(close) close,"
    " sum(volume) volume, sum(quote_volume) quote_volume, sum(trades) trades"
)
# ticks without a value do not open or close a candle; kr, gl, premium and fx are the last values
_LAST = (
    "last_not_null(kr) kr, last_not_null(gl) gl, last_not_null(premium) premium,"
    " last_not_null(fx) fx"
)
_TICK = (
    "first_not_null(value) open, max(value) high, min(value) low, last_not_null(value) close,"
    f" {_LAST}, count() ticks, count(value) valid"
)
_TICK_ROLLED = (
    "first_not_null(open) open, max(high) high, min(low) low, last_not_null(close) close,"
    f" {_LAST}, sum(ticks) ticks, sum(valid) valid"
)


def _premium(first: str, high: str, low: str, last: str) -> str:
    """Return the columns of a premium's candles on each basis. Args: what each is made from."""
    return ", ".join(
        f"first_not_null({first.format(*names)}) {names[0]}_open,"
        f" max({high.format(*names)}) {names[0]}_high, min({low.format(*names)}) {names[0]}_low,"
        f" last_not_null({last.format(*names)}) {names[0]}_close"
        for names in (("coin", "premium"), ("fiat", "premium_a"), ("usdt", "premium_c"))
    )


_PREMIUM_LAST = "last_not_null(kr) kr, last_not_null(gl) gl, last_not_null(fx) fx"
_PREMIUM_COUNTS = ("ticks", "coin_valid", "fiat_valid", "usdt_valid")


def _coarser(kind: str, select: str) -> tuple[View, View]:
    """Return candles of a minute and an hour, from those of a second."""
    return (
        View(f"{kind}_1m", f"{kind}_1s", select, "1m", "MONTH"),
        View(f"{kind}_1h", f"{kind}_1m", select, "1h", "YEAR"),
    )


VIEWS = (
    View(
        "trade_1s",
        "trade",
        f"ts, exchange, market, arg_min(price, {_ORDER}) open, max(price) high, min(price) low,"
        f" arg_max(price, {_ORDER}) close, sum(size) volume, sum(price * size) quote_volume,"
        " count() trades",
        "1s",
        "DAY",
        "30 DAYS",
    ),
    *_coarser("trade", f"ts, exchange, market, {_ROLLED}"),
    View("index_1s", "index_tick", f"ts, asset, {_TICK}", "1s", "DAY", "30 DAYS"),
    *_coarser("index", f"ts, asset, {_TICK_ROLLED}"),
    View(
        "premium_1m",
        "index_tick",
        f"ts, asset, {_premium('{1}', '{1}', '{1}', '{1}')}, {_PREMIUM_LAST}, count() ticks,"
        " count(premium) coin_valid, count(premium_a) fiat_valid, count(premium_c) usdt_valid",
        "1m",
        "DAY",
        "90 DAYS",
    ),
    View(
        "premium_1h",
        "premium_1m",
        f"ts, asset, {_premium('{0}_open', '{0}_high', '{0}_low', '{0}_close')}, {_PREMIUM_LAST}, "
        + ", ".join(f"sum({name}) {name}" for name in _PREMIUM_COUNTS),
        "1h",
        "YEAR",
    ),
)
