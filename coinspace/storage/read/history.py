"""The queries of the API's routes. Values of requests are bound, never part of the SQL text.

A checked interval selects the view. Times are int64 ns. A page begins after the last row's key, so
all pages cost the same. Times are selected as `ns`: an alias `ts` would hide the column from
ORDER BY.
"""

from __future__ import annotations

from typing import Any

from coinspace.clock import DAY_NS, HOUR_NS, MILLISECOND_NS, MINUTE_NS, SECOND_NS
from coinspace.errors import NoSuchColumn
from coinspace.storage.read.pool import Database, Row
from coinspace.storage.tables import INDEX_VENUE, TIME

# older books are not returned as the book at an instant
BOOK_AGE_NS = HOUR_NS
# largest age of the tick at an instant
TICK_AGE_NS = MINUTE_NS

# interval -> (length, view, SAMPLE BY unit when the view is finer)
INTERVALS: dict[str, tuple[int, str, str | None]] = {
    "1s": (SECOND_NS, "index_1s", None),
    "1m": (MINUTE_NS, "index_1m", None),
    "5m": (5 * MINUTE_NS, "index_1m", "5m"),
    "1h": (HOUR_NS, "index_1h", None),
    "1d": (DAY_NS, "index_1h", "1d"),
}

_VENUE_COLUMNS = ", ".join(
    f"{name}::long {name}" if kind == TIME else name
    for name, kind in INDEX_VENUE.columns
    if name != "ts"
)


async def values(
    database: Database, asset: str, start_ns: int, end_ns: int, limit: int
) -> list[Row]:
    """Return index values of [start, end), oldest first."""
    return await database.rows(
        "SELECT ts::long ns, status, reason, value, kr, gl, value_krw, premium, fx, fx_status,"
        " best_bid, best_ask, n_used FROM index_tick"
        " WHERE asset = %s AND ts >= %s AND ts < %s ORDER BY ts LIMIT %s",
        (asset, start_ns, end_ns, limit),
    )


async def candles(
    database: Database, asset: str, interval: str, start_ns: int, end_ns: int
) -> list[Row]:
    """Return the candles that have ticks; bounds are multiples of the interval."""
    _, view, unit = INTERVALS[interval]
    rows = f"FROM {view} WHERE asset = %s AND ts >= %s AND ts < %s"
    if unit is not None:
        rows = (
            "FROM (SELECT ts, first_not_null(open) open, max(high) high, min(low) low,"
            " last_not_null(close) close, last_not_null(kr) kr, last_not_null(gl) gl,"
            " last_not_null(premium) premium, last_not_null(fx) fx, sum(ticks) ticks,"
            f" sum(valid) valid {rows} SAMPLE BY {unit} ALIGN TO CALENDAR)"
        )
    columns = "ts::long ns, open, high, low, close, kr, gl, premium, fx, ticks, valid"
    return await database.rows(f"SELECT {columns} {rows} ORDER BY ts", (asset, start_ns, end_ns))


PREMIUM_INTERVALS: dict[str, tuple[int, str, str | None]] = {
    "1m": (MINUTE_NS, "premium_1m", None),
    "5m": (5 * MINUTE_NS, "premium_1m", "5m"),
    "1h": (HOUR_NS, "premium_1h", None),
    "1d": (DAY_NS, "premium_1h", "1d"),
}


async def premium_values(
    database: Database, asset: str, start_ns: int, end_ns: int, limit: int
) -> list[Row]:
    """Return the premiums of [start, end) on every basis, oldest first."""
    return await database.rows(
        "SELECT ts::long ns, status, reason, premium coin, premium_a fiat, premium_c usdt, kr, gl,"
        " fx, fx_status FROM index_tick"
        " WHERE asset = %s AND ts >= %s AND ts < %s ORDER BY ts LIMIT %s",
        (asset, start_ns, end_ns, limit),
    )


async def premium_candles(
    database: Database, asset: str, basis: str, interval: str, start_ns: int, end_ns: int
) -> list[Row]:
    """Return the candles of a premium that have ticks; bounds are multiples of the interval.

    Args: basis: coin, fiat or usdt.
    """
    _, view, unit = PREMIUM_INTERVALS[interval]
    parts = ("open", "high", "low", "close")
    columns = ", ".join(f"{basis}_{part} {part}" for part in parts)
    rows = (
        f"FROM (SELECT ts, {columns}, kr, gl, fx, ticks, {basis}_valid valid FROM {view}"
        " WHERE asset = %s AND ts >= %s AND ts < %s)"
    )
    if unit is not None:
        rows = (
            "FROM (SELECT ts, first_not_null(open) open, max(high) high, min(low) low,"
            " last_not_null(close) close, last_not_null(kr) kr, last_not_null(gl) gl,"
            " last_not_null(fx) fx, sum(ticks) ticks, sum(valid) valid"
            f" {rows} SAMPLE BY {unit} ALIGN TO CALENDAR)"
        )
    found = await database.rows(
        f"SELECT ts::long ns, open, high, low, close, kr, gl, fx, ticks, valid {rows} ORDER BY ts",
        (asset, start_ns, end_ns),
    )
    if basis != "coin":
        return found
    older = await _older(database, asset, interval, found, start_ns, end_ns)
    unknown = dict.fromkeys(("open", "high", "low"))
    return [{**row, **unknown, "close": row["premium"]} for row in older] + found


async def _older(
    database: Database, asset: str, interval: str, found: list[Row], start_ns: int, end_ns: int
) -> list[Row]:
    """Return candles of the index before the first one of its premium.

    The premium's views begin with the version that made them. Those of the index are older, and
    have the last premium against USDT.
    """
    first_ns = found[0]["ns"] if found else end_ns
    if first_ns <= start_ns:
        return []
    return await candles(database, asset, interval, start_ns, first_ns)


async def premium_samples(
    database: Database, asset: str, step_ms: int, start_ms: int, end_ms: int
) -> list[Row]:
    """Return the last premium of each step on every basis; steps without a tick have no row.

    Args: step_ms: 5 s, a minute or an hour.
    """
    bound = (asset, ns(start_ms), ns(end_ms))
    where = "WHERE asset = %s AND ts >= %s AND ts < %s"
    interval = {MINUTE_NS: "1m", HOUR_NS: "1h"}.get(ns(step_ms))
    if interval is None:
        return await database.rows(
            "SELECT ts::long ns, last_not_null(premium) coin, last_not_null(premium_a) fiat,"
            f" last_not_null(premium_c) usdt FROM index_tick {where}"
            f" SAMPLE BY {step_ms // 1000}s ALIGN TO CALENDAR",
            bound,
        )
    found = await database.rows(
        "SELECT ts::long ns, coin_close coin, fiat_close fiat, usdt_close usdt"
        f" FROM premium_{interval} {where} ORDER BY ts",
        bound,
    )
    older = await _older(database, asset, interval, found, *bound[1:])
    return [{**row, "coin": row["premium"], "fiat": None, "usdt": None} for row in older] + found


async def stored_until(database: Database, asset: str, interval: str) -> int:
    """Return the time of the newest candle in an interval's view, 0 = none."""
    view = INTERVALS[interval][1]
    sql = f"SELECT ts::long ns FROM {view} WHERE asset = %s ORDER BY ts DESC LIMIT 1"
    row = await database.one(sql, (asset,))
    return int(row["ns"]) if row else 0


async def tick(database: Database, asset: str, at_ns: int) -> Row | None:
    """Return the newest record at or before an instant."""
    return await database.one(
        "SELECT *, ts::long ns FROM index_tick"
        " WHERE asset = %s AND ts <= %s AND ts > %s ORDER BY ts DESC LIMIT 1",
        (asset, at_ns, at_ns - TICK_AGE_NS),
    )


async def tick_venues(database: Database, asset: str, ts_ns: int) -> list[Row]:
    """Return the venues of one tick, including those of the exchange rate."""
    return await database.rows(
        f"SELECT {_VENUE_COLUMNS} FROM index_venue WHERE ts = %s AND (asset = %s OR role = 'fx')",
        (ts_ns, asset),
    )


async def book(database: Database, exchange: str, market: str, at_ns: int) -> Row | None:
    """Return the newest stored book at an instant."""
    return await database.one(
        "SELECT bids, asks, n_bids, n_asks, exchange_ts::long exchange_ns, ts::long ns"
        " FROM orderbook"
        " WHERE exchange = %s AND market = %s AND ts <= %s AND ts > %s ORDER BY ts DESC LIMIT 1",
        (exchange, market, at_ns, at_ns - BOOK_AGE_NS),
    )


async def books(
    database: Database,
    exchange: str,
    market: str,
    start_ns: int,
    end_ns: int,
    after: tuple[int, int] | None,
    limit: int,
) -> list[Row]:
    """Return the stored books of [start, end), oldest first.

    Args: after: (ns, n): continue after the n-th book of that time.
    """
    skipped = after[1] if after else 0
    found = await database.rows(
        "SELECT ts::long ns, exchange_ts::long exchange_ns, bids, asks FROM orderbook"
        " WHERE exchange = %s AND market = %s AND ts >= %s AND ts < %s"
        " ORDER BY ts, epoch, seq LIMIT %s",
        (exchange, market, max(start_ns, after[0] if after else 0), end_ns, limit + skipped),
    )
    return found[skipped:]


def books_after(rows: list[Row], before: tuple[int, int] | None) -> tuple[int, int]:
    """Return `after` for the page that follows these rows."""
    last_ns = rows[-1]["ns"]
    count = sum(row["ns"] == last_ns for row in rows)
    return last_ns, count + (before[1] if before and before[0] == last_ns else 0)


async def trades(
    database: Database,
    where: dict[str, str],
    start_ns: int,
    end_ns: int,
    after: tuple[int, int, int] | None,
    limit: int,
) -> list[Row]:
    """Return trades of [start, end), oldest first.

    Args:
        where: exchange and market; both are optional.
        after: (ns, id, n): continue after the n-th trade of that time and id. Trades of several
            exchanges may have the same time and id.
    """
    names = [name for name in ("exchange", "market") if name in where]
    conditions = "".join(f" AND {name} = %s" for name in names)
    bound: list[Any] = [max(start_ns, after[0] if after else 0), end_ns]
    bound += [where[name] for name in names]
    if after is not None:
        conditions += " AND (ts > %s OR trade_id >= %s)"
        bound += after[:2]
    skipped = after[2] if after else 0
    bound.append(limit + skipped)
    select = "SELECT ts::long ns, exchange, market, side, price, size, trade_id"
    stored = (
        f"FROM trade WHERE ts >= %s AND ts < %s{conditions}"
        " ORDER BY ts, trade_id, exchange, market LIMIT %s"
    )
    try:
        found = await database.rows(f"{select}, coalesce(n_trades, 1) trades {stored}", bound)
    except NoSuchColumn:
        # an earlier release had no aggregates
        found = await database.rows(f"{select}, 1 trades {stored}", bound)
    return found[skipped:]


def trades_after(rows: list[Row], before: tuple[int, int, int] | None) -> tuple[int, int, int]:
    """Return `after` for the page that follows these rows."""
    key = (rows[-1]["ns"], rows[-1]["trade_id"])
    count = 0
    for row in reversed(rows):
        if (row["ns"], row["trade_id"]) != key:
            return (*key, count)
        count += 1
    return (*key, count + (before[2] if before and before[:2] == key else 0))


async def gaps(
    database: Database, where: dict[str, str], start_ns: int, end_ns: int, limit: int
) -> list[Row]:
    """Return the gaps of [start, end), newest first."""
    names = [name for name in ("exchange", "market", "kind", "status") if name in where]
    conditions = "".join(f" AND {name} = %s" for name in names)
    return await database.rows(
        "SELECT ts::long ns, kind, publisher, exchange, market, status, reason, first, last,"
        " count, closed_ts::long closed FROM gap"
        f" WHERE ts >= %s AND ts < %s{conditions} ORDER BY ts DESC LIMIT %s",
        (start_ns, end_ns, *(where[name] for name in names), limit),
    )


async def quotations(
    database: Database, source: str | None, start_ns: int, end_ns: int, limit: int
) -> list[Row]:
    """Return the stored quotations of USD/KRW of [start, end), newest first."""
    one = "" if source is None else " AND exchange = %s"
    return await database.rows(
        "SELECT ts::long ns, exchange, rate, daily, exchange_ts::long observed_ns FROM rate"
        f" WHERE ts >= %s AND ts < %s{one} ORDER BY ts DESC LIMIT %s",
        (start_ns, end_ns, *([] if source is None else [source]), limit),
    )


async def definitions(database: Database, limit: int) -> list[Row]:
    """Return announced methodology records, newest first."""
    return await database.rows(
        "SELECT ts::long ns, asset, role, definition FROM methodology ORDER BY ts DESC LIMIT %s",
        (limit,),
    )


def ns(milliseconds: int) -> int:
    return milliseconds * MILLISECOND_NS
