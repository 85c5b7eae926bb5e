"""The state that a restarted index calculator reads: last ticks, times of books, open outages."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from coinspace.storage.read.query import number, rows
from coinspace.storage.schema import Connection
from coinspace.storage.tables import INDEX_NEXT, INDEX_TICK

# later than every tick
NO_BOUND_NS = 2**62
# holes per read; the rest is read after these are filled
HOLES = 1000


class LastTick(NamedTuple):
    """The last stored tick of an index."""

    ts_ns: int
    flagged: str | None
    split: bool | None


class OpenOutage(NamedTuple):
    """An open row of `gap`; first and last are ticks, ns."""

    found_ns: int
    epoch: int
    market: str
    first_ns: int
    last_ns: int
    ticks: int


class Ticks:
    """The stored ticks of one index.

    Args:
        candidate: read `index_next` instead of `index_tick`.
        parameter_hash: of the records to read, None = all.
    """

    def __init__(
        self,
        connection: Connection,
        asset: str,
        *,
        candidate: bool = False,
        parameter_hash: str | None = None,
    ) -> None:
        self._connection = connection
        self._table = (INDEX_NEXT if candidate else INDEX_TICK).name
        self._where = "asset = %s"
        self._values: tuple[Any, ...] = (asset,)
        if parameter_hash is not None:
            self._where += " AND parameter_hash = %s"
            self._values += (parameter_hash,)

    def last(self, before_ns: int | None = None) -> LastTick | None:
        """Return the last tick before an instant, None when there is none."""
        found = rows(
            self._connection,
            f"SELECT ts::long, flagged, split FROM {self._table}"
            f" WHERE {self._where} AND ts < %s::timestamp_ns ORDER BY ts DESC LIMIT 1",
            (*self._values, NO_BOUND_NS if before_ns is None else before_ns),
        )
        return LastTick(*found[0]) if found else None

    def values(
        self, first_ns: int, last_ns: int
    ) -> list[tuple[int, float | None, float | None, float | None]]:
        """Return (ts_ns, value_raw, kr, gl) of a range, both ends included, oldest first."""
        found = rows(
            self._connection,
            f"SELECT ts::long, value_raw, kr, gl FROM {self._table} WHERE {self._where}"
            " AND ts >= %s::timestamp_ns AND ts <= %s::timestamp_ns ORDER BY ts",
            (*self._values, first_ns, last_ns),
        )
        return [(ts_ns, value, kr, gl) for ts_ns, value, kr, gl in found]

    def null_since(self, ts_ns: int) -> int:
        """Return the first tick of the run of ticks without a value that ends at `ts_ns`."""
        last = number(
            self._connection,
            f"SELECT max(ts)::long FROM {self._table}"
            f" WHERE {self._where} AND value_raw != null AND ts <= %s::timestamp_ns",
            (*self._values, ts_ns),
        )
        first = number(
            self._connection,
            f"SELECT min(ts)::long FROM {self._table} WHERE {self._where}"
            " AND ts > %s::timestamp_ns",
            (*self._values, last or 0),
        )
        return ts_ns if first is None else first


def last_tick_ns(connection: Connection, asset: str, first_ns: int, last_ns: int) -> int | None:
    """Return the last stored tick of a range, both ends included."""
    return number(
        connection,
        "SELECT max(ts)::long FROM index_tick WHERE asset = %s"
        " AND ts >= %s::timestamp_ns AND ts <= %s::timestamp_ns",
        (asset, first_ns, last_ns),
    )


def holes(
    connection: Connection, asset: str, step_ns: int, since_ns: int, until_ns: int
) -> list[tuple[int, int]]:
    """Return (first, last) tick of each hole: ticks without a record between two stored ones.

    A hole must be next to two ticks that are one step apart: records of another interval have no
    holes.

    Args: since_ns, until_ns: range of the stored ticks before and after a hole.
    """
    found = rows(
        connection,
        "SELECT before, at FROM (SELECT ts::long AS at,"
        " lag(ts::long) OVER (ORDER BY ts) AS before,"
        " lag(ts::long, 2) OVER (ORDER BY ts) AS earlier,"
        " lead(ts::long) OVER (ORDER BY ts) AS later FROM index_tick"
        " WHERE asset = %s AND ts >= %s::timestamp_ns AND ts <= %s::timestamp_ns)"
        " WHERE at - before > %s AND (before - earlier = %s OR later - at = %s)"
        f" AND at <= %s LIMIT {HOLES}",
        (asset, since_ns, until_ns + step_ns, step_ns, step_ns, step_ns, until_ns),
    )
    return [(before_ns + step_ns, at_ns - step_ns) for before_ns, at_ns in found]


def minutes_after(
    connection: Connection, asset: str, after_ns: int, not_reason: str, limit: int
) -> list[tuple[int, int]]:
    """Return (first, last) tick per minute after an instant, without ticks of `not_reason`."""
    found = rows(
        connection,
        "SELECT ts::long / 60000000000 AS at_minute,"
        " min(ts::long) AS first_ns, max(ts::long) AS last_ns"
        " FROM index_tick WHERE asset = %s AND ts > %s::timestamp_ns"
        " AND (reason IS NULL OR reason != %s)"
        f" ORDER BY at_minute LIMIT {int(limit)}",
        (asset, after_ns, not_reason),
    )
    return [(first_ns, last_ns) for _, first_ns, last_ns in found]


def changes(
    connection: Connection, asset: str, role: str, after_ns: int, ts_ns: int
) -> list[tuple[str, int]]:
    """Return (venue, time of its book's last change) at a tick."""
    found = rows(
        connection,
        "SELECT venue, changed_ts::long FROM index_venue WHERE asset = %s AND role = %s"
        " AND ts > %s::timestamp_ns AND ts <= %s::timestamp_ns LATEST ON ts PARTITION BY venue",
        (asset, role, after_ns, ts_ns),
    )
    return [(venue, changed_ns) for venue, changed_ns in found if changed_ns is not None]


def first_tick_with_book(
    connection: Connection,
    key: tuple[str, str, str],
    first_ns: int,
    last_ns: int,
    changed_ns: int,
    reasons: Sequence[str],
) -> int | None:
    """Return the first tick of a range that used a venue's book of `changed_ns`.

    Args:
        key: asset, role, venue.
        reasons: reasons with which a venue is still used.
    """
    return number(
        connection,
        "SELECT min(ts)::long FROM index_venue WHERE asset = %s AND role = %s AND venue = %s"
        " AND ts >= %s::timestamp_ns AND ts <= %s::timestamp_ns AND changed_ts = %s::timestamp_ns"
        f" AND {_reasons(reasons)}",
        (*key, first_ns, last_ns, changed_ns, *reasons),
    )


def mids(
    connection: Connection, asset: str, role: str, ts_ns: int, reasons: Sequence[str]
) -> list[tuple[str, float | None]]:
    """Return (venue, mid) of the venues that a tick used."""
    found = rows(
        connection,
        "SELECT venue, mid FROM index_venue WHERE asset = %s AND role = %s"
        f" AND {_reasons(reasons)} AND ts = %s::timestamp_ns",
        (asset, role, *reasons, ts_ns),
    )
    return [(venue, mid) for venue, mid in found]


def _reasons(reasons: Sequence[str]) -> str:
    return f"(reason IS NULL OR reason IN ({', '.join(['%s'] * len(reasons))}))"


def rates(
    connection: Connection, asset: str, first_ns: int, end_ns: int, column: str = "fx"
) -> list[tuple[int, float | None, str, str | None]]:
    """Return (ts_ns, rate, status, fx_flagged) of the ticks of [first, end) with a rate.

    Args: column: of the rate, `fx` or `usdt_usd`.
    """
    found = rows(
        connection,
        f"SELECT ts::long, {column}, {column}_status, fx_flagged FROM index_tick WHERE asset = %s"
        f" AND ts >= %s::timestamp_ns AND ts < %s::timestamp_ns AND {column}_status != null"
        " ORDER BY ts",
        (asset, first_ns, end_ns),
    )
    return [(ts_ns, rate, status, flagged) for ts_ns, rate, status, flagged in found]


class LastReference(NamedTuple):
    """The last accepted USD/KRW of a range: its tick, rate, source and that source's time."""

    ts_ns: int
    rate: float
    status: str
    source: str
    observed_ns: int


def last_reference(
    connection: Connection, asset: str, first_ns: int, end_ns: int, statuses: Sequence[str]
) -> LastReference | None:
    """Return the last USD/KRW of [first, end) with one of some statuses, None without one."""
    found = rows(
        connection,
        "SELECT ts::long, usd_krw, usd_krw_status, usd_krw_source, usd_krw_observed_ns"
        " FROM index_tick WHERE asset = %s AND ts >= %s::timestamp_ns AND ts < %s::timestamp_ns"
        f" AND usd_krw_status IN ({', '.join(['%s'] * len(statuses))}) ORDER BY ts DESC LIMIT 1",
        (asset, first_ns, end_ns, *statuses),
    )
    return LastReference(*found[0]) if found else None


def quotations(
    connection: Connection, first_ns: int, end_ns: int
) -> list[tuple[str, float, int, int, bool, int]]:
    """Return the last stored quotation of each source received in [first, end).

    Returns: source, rate, the source's time and the receipt in ns, whether it is a daily one, its
        round.
    """
    found = rows(
        connection,
        "SELECT exchange, rate, exchange_ts::long, ts::long, daily, round FROM rate"
        " WHERE ts >= %s::timestamp_ns AND ts < %s::timestamp_ns"
        " LATEST ON ts PARTITION BY exchange",
        (first_ns, end_ns),
    )
    return [tuple(one) for one in found]


def open_outages(connection: Connection, kind: str, publisher: str) -> list[OpenOutage]:
    """Return the open rows of `gap` of a kind and publisher, earliest outage first."""
    found = rows(
        connection,
        "SELECT ts::long, epoch, market, first, last, count FROM gap"
        " WHERE kind = %s AND publisher = %s AND status = 'open' ORDER BY first",
        (kind, publisher),
    )
    return [OpenOutage(*row) for row in found]


def first_open_ns(connection: Connection, kind: str) -> int | None:
    """Return the first tick of all open outages of a kind, None when there is none."""
    return number(
        connection,
        "SELECT min(first) FROM gap WHERE kind = %s AND status = 'open'",
        (kind,),
    )
