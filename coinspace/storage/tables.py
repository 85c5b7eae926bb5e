"""The tables: every column, key, partition and view, in one place.

Times `ts` are ours and fixed at receipt (a trade's is its trade time), so that a row that is sent
twice replaces itself. The keys contain what tells two messages apart: the publisher's epoch and
sequence, a trade's id, an index's asset. `exchange_ts` can be null, repeated or minutes old.
"""

from __future__ import annotations

from dataclasses import dataclass

TIME = "TIMESTAMP_NS"
EXCHANGE = ("exchange", "SYMBOL")
MARKET = ("market", "SYMBOL")
CAPACITY = {"exchange": 64, "market": 4096, "venue": 4096, "asset": 1024, "side": 4}


@dataclass(frozen=True, slots=True)
class Table:
    """One table. keys: of deduplication; ttl: its default, "" keeps rows for ever."""

    name: str
    columns: tuple[tuple[str, str], ...]
    keys: tuple[str, ...]
    partition: str = "DAY"
    ttl: str = ""

    def create(self, ttl: str) -> str:
        """Return the CREATE statement. Args: ttl: as the server reads it, "" = rows are kept."""
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

    def create(self, ttl: str) -> str:
        """Return the CREATE statement. Args: ttl: as the server reads it, "" = rows are kept."""
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


# the publisher's identity of a message
IDENTITY = (("epoch", "LONG"), ("seq", "LONG"))
TIMES = (("exchange_ts", TIME), ("published_ts", TIME), ("ts", TIME))

ORDERBOOK = Table(
    "orderbook",
    (
        EXCHANGE,
        MARKET,
        ("bid", "DOUBLE"),
        ("bid_size", "DOUBLE"),
        ("ask", "DOUBLE"),
        ("ask_size", "DOUBLE"),
        # [[prices], [sizes]], best first, at most storage.depth levels
        ("bids", "DOUBLE[][]"),
        ("asks", "DOUBLE[][]"),
        # levels as published
        ("n_bids", "INT"),
        ("n_asks", "INT"),
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
        *(
            (name, "DOUBLE")
            for name in (
                "last",
                "open",
                "high",
                "low",
                "volume",
                "quote_volume",
                "change",
                "bid",
                "bid_size",
                "ask",
                "ask_size",
            )
        ),
        # of open, high, low and change
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
        # the taker's
        ("side", "SYMBOL"),
        ("price", "DOUBLE"),
        ("size", "DOUBLE"),
        ("trade_id", "LONG"),
        ("flags", "INT"),
        *IDENTITY,
        ("received_ts", TIME),
        ("published_ts", TIME),
        # the exchange's trade time
        ("ts", TIME),
    ),
    keys=("ts", "exchange", "market", "trade_id"),
    ttl="365 DAYS",
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
        ("published_ts", TIME),
        ("ts", TIME),
    ),
    keys=("ts", "publisher", "exchange", "market", "epoch", "seq"),
)

GAP = Table(
    "gap",
    (
        # orderbook, ticker, trade, state (a kind of message), venue (nothing came from it), or
        # index (ticks not computed: market = asset, first and last in ns)
        ("kind", "SYMBOL"),
        # or the worker that has to store a kind again, since its table's columns were changed
        ("publisher", "SYMBOL"),
        EXCHANGE,
        MARKET,
        # open: being fetched, or lasting; filled, or over; lost: held nowhere any more;
        # dead: refused by the database
        ("status", "SYMBOL"),
        ("reason", "VARCHAR"),
        ("epoch", "LONG"),
        # sequences first..last, both included; 0 for a venue's outage
        ("first", "LONG"),
        ("last", "LONG"),
        ("count", "LONG"),
        ("closed_ts", TIME),
        # when it was found
        ("ts", TIME),
    ),
    keys=("ts", "kind", "publisher", "exchange", "market", "epoch", "first"),
    partition="MONTH",
)

# columns of one index record, named as in the record; `index_recalc` repeats them
_RECORD = (
    ("asset", "SYMBOL"),
    # ok, degraded, null
    ("status", "SYMBOL"),
    ("reason", "SYMBOL"),
    ("value", "DOUBLE"),
    ("value_raw", "DOUBLE"),
    ("value_full", "DOUBLE"),
    ("curve_end", "SYMBOL"),
    ("utilised_depth", "DOUBLE"),
    ("lambda", "DOUBLE"),
    ("size_cap", "DOUBLE"),
    ("coverage_depth", "DOUBLE"),
    ("depth_limited", "BOOLEAN"),
    # KRW per USDT
    ("fx", "DOUBLE"),
    ("fx_status", "SYMBOL"),
    # consolidated best
    ("best_bid", "DOUBLE"),
    ("best_ask", "DOUBLE"),
    # KR value in KRW, GL value in USDT, composite converted to KRW
    ("kr", "DOUBLE"),
    ("gl", "DOUBLE"),
    ("value_krw", "DOUBLE"),
    ("premium", "DOUBLE"),
    ("confidence", "DOUBLE"),
    ("median_capped", "DOUBLE"),
    ("twap", "DOUBLE"),
    ("n_used", "INT"),
    ("n_venues", "INT"),
    # memory of the method: names with commas between
    ("flagged", "VARCHAR"),
    ("fx_flagged", "VARCHAR"),
    ("split", "BOOLEAN"),
    ("failed", "BOOLEAN"),
    # JSON: regional values, premium's parts, liquidity-weighted prices
    ("siblings", "VARCHAR"),
    ("method_version", "LONG"),
    ("parameter_hash", "SYMBOL"),
    # tick to record; not part of what is compared
    ("latency_ns", "LONG"),
    # the aggregate behind it
    *IDENTITY,
)

INDEX_TICK = Table("index_tick", (*_RECORD, ("ts", TIME)), keys=("ts", "asset"))
# a candidate parameter set beside the live one
INDEX_NEXT = Table("index_next", (*_RECORD, ("ts", TIME)), keys=("ts", "asset", "parameter_hash"))
INDEX_RECALC = Table(
    "index_recalc",
    (
        *_RECORD,
        ("original", "DOUBLE"),
        ("recalc_id", "LONG"),
        ("operator", "SYMBOL"),
        ("because", "VARCHAR"),
        ("ts", TIME),
    ),
    keys=("ts", "asset", "recalc_id"),
)
INDEX_VENUE = Table(
    "index_venue",
    (
        ("asset", "SYMBOL"),
        # constituent; fx: a USDT/KRW book, once per tick for all assets under the asset USDT
        ("role", "SYMBOL"),
        # exchange:BASE/QUOTE
        ("venue", "SYMBOL"),
        ("mid", "DOUBLE"),
        ("age_ms", "DOUBLE"),
        ("used", "BOOLEAN"),
        ("reason", "SYMBOL"),
        ("share", "DOUBLE"),
        # the message that its book came from
        ("publisher", "SYMBOL"),
        *IDENTITY,
        ("received_ts", TIME),
        ("changed_ts", TIME),
        ("ts", TIME),
    ),
    keys=("ts", "asset", "role", "venue"),
)
METHODOLOGY = Table(
    "methodology",
    (
        ("asset", "SYMBOL"),
        # live, or next: announced and running beside
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
        ("operator", "SYMBOL"),
        ("action", "SYMBOL"),
        ("target", "VARCHAR"),
        ("detail", "VARCHAR"),
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
        # of the day's records alone, of the link before, and of both: SHA-256 in hex
        ("digest", "VARCHAR"),
        ("previous", "VARCHAR"),
        ("link", "VARCHAR"),
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

# who stores a table's messages, and stores them again when its columns were damaged
STORED_BY = {
    ORDERBOOK.name: ("orderbook-storage-worker",),
    TICKER.name: ("ticker-storage-worker",),
    TRADE.name: ("ticker-storage-worker",),
    STATE.name: ("orderbook-storage-worker", "ticker-storage-worker"),
}

# Trades of equal time count in id order, whatever order they came in. The key holds the ns within
# the second above 33 bits of the id: ids of one instant differ by less than that.
_ORDER = "(ts::long % 1000000000L) * 8589934592L + trade_id % 8589934592L"
_ROLLED = (
    "first(open) open, max(high) high, min(low) low, last(close) close,"
    " sum(volume) volume, sum(quote_volume) quote_volume, sum(trades) trades"
)
# a null tick is no price: a candle opens and closes with values; the siblings are those at its end
_TICK = (
    "first_not_null(value) open, max(value) high, min(value) low, last_not_null(value) close,"
    " last_not_null(kr) kr, last_not_null(gl) gl, last_not_null(premium) premium,"
    " last_not_null(fx) fx"
)
_TICK_ROLLED = (
    "first_not_null(open) open, max(high) high, min(low) low, last_not_null(close) close,"
    " last_not_null(kr) kr, last_not_null(gl) gl, last_not_null(premium) premium,"
    " last_not_null(fx) fx"
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
    View("trade_1m", "trade_1s", f"ts, exchange, market, {_ROLLED}", "1m", "MONTH"),
    View("trade_1h", "trade_1m", f"ts, exchange, market, {_ROLLED}", "1h", "YEAR"),
    View(
        "index_1s",
        "index_tick",
        f"ts, asset, {_TICK}, count() ticks, count(value) valid",
        "1s",
        "DAY",
        "30 DAYS",
    ),
    View(
        "index_1m",
        "index_1s",
        f"ts, asset, {_TICK_ROLLED}, sum(ticks) ticks, sum(valid) valid",
        "1m",
        "MONTH",
    ),
    View(
        "index_1h",
        "index_1m",
        f"ts, asset, {_TICK_ROLLED}, sum(ticks) ticks, sum(valid) valid",
        "1h",
        "YEAR",
    ),
)
