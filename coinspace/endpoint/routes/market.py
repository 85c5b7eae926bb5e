"""`/v1/tickers` and `/v1/trades`: data of single exchanges."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from heapq import merge
from itertools import islice
from operator import attrgetter
from typing import Annotated, Any

from blacksheep.messages import Request, Response
from msgspec import Meta, Struct, to_builtins

from coinspace._ext.message import Message
from coinspace.clock import MILLISECOND_NS
from coinspace.endpoint.context import Context
from coinspace.endpoint.history import bulk
from coinspace.endpoint.history.ranges import next_link, span
from coinspace.endpoint.http.api import Routes, encode, json_answer
from coinspace.endpoint.live import market
from coinspace.endpoint.models import Tickers, Trade, TradePage
from coinspace.endpoint.routes.history import MINUTE_MS, RANGE, Cursor, Limit
from coinspace.endpoint.values import Instant, decimal, decode_cursor, encode_cursor
from coinspace.market import as_named
from coinspace.storage.read import history

routes = Routes()

ExchangeName = Annotated[str, Meta(max_length=40, examples=["upbit"])]
MarketName = Annotated[str, Meta(max_length=41, description="BASE/QUOTE", examples=["BTC/KRW"])]

PAGE_TRADES = 100
# trades looked at for each one shown: those that REST filled in late are older than they arrive
LATE = 4
TRADE_COLUMNS: bulk.Columns = {
    "ts": "time",
    "exchange": "text",
    "market": "text",
    "side": "text",
    "price": "number",
    "size": "number",
    "trade_id": "integer",
    "trades": "integer",
}


class TickersQuery(Struct, forbid_unknown_fields=True):
    """Tickers of one exchange, one market, or all."""

    exchange: ExchangeName | None = None
    market: MarketName | None = None


class TradesQuery(Struct, forbid_unknown_fields=True):
    """Trades: the newest without a range, stored ones of [start, end) with one."""

    exchange: ExchangeName | None = None
    market: MarketName | None = None
    start: Instant | None = None
    end: Instant | None = None
    limit: Limit | None = None
    cursor: Cursor | None = None


def _chosen(context: Context, query: TickersQuery | TradesQuery) -> list[tuple[str, str]]:
    # the query takes the platform's spelling of names
    exchange, name = query.exchange, query.market
    if exchange is not None:
        exchange = query.exchange = context.check_exchange(exchange)
    if name is not None:
        name = query.market = as_named(name)
    if exchange is not None and name is not None:
        return [context.check_market(exchange, name)]
    found = [
        (one, other)
        for one, other in context.all_markets()
        if exchange in (None, one) and name in (None, other)
    ]
    if not found and name is not None:
        context.check_market(next(iter(context.settings.exchanges)), name)
    return found


@routes.get("/v1/tickers", TickersQuery, answer=Tickers, tag="market", problems=("unknown-market",))
async def tickers(context: Context, request: Request, query: TickersQuery) -> Response:
    """The newest ticker of every chosen market, with age and state."""
    messages = [context.live.tickers.get(key) for key in _chosen(context, query)]
    found = [market.ticker(context, one) for one in messages if one is not None]
    return json_answer(encode(Tickers(found)))


@routes.get(
    "/v1/trades",
    TradesQuery,
    answer=TradePage,
    tag="market",
    media=bulk.FORMATS,
    problems=("unknown-market", *RANGE),
)
async def trades(context: Context, request: Request, query: TradesQuery) -> Response:
    """Trades, oldest first: those stored in [start, end), without a range the newest ones.

    CSV, Arrow and Parquet (by `Accept`) carry the whole range, JSON comes in pages of 100 rows.
    """
    keys = _chosen(context, query)
    media = bulk.accepted(request)
    limit = query.limit or PAGE_TRADES
    stored = query.start is not None or query.end is not None or query.cursor is not None
    if not stored:
        kept = (context.live.trades[key] for key in keys if key in context.live.trades)
        newest = newest_trades(kept, limit)
        shown = [market.trade(context, one) for one in newest]
        if media == bulk.JSON:
            return json_answer(encode(TradePage(shown, None, None)), (b"vary", b"Accept"))
        return await bulk.answer(
            context.downloads,
            request,
            media,
            TRADE_COLUMNS,
            _as_columns(shown),
            bulk.file_name(("trades", "newest"), media),
        )
    start, end = span(query.start, query.end, context.now_ms(), MINUTE_MS)
    where = {
        name: value
        for name, value in (("exchange", query.exchange), ("market", query.market))
        if value is not None
    }

    async def read(after: tuple[int, int, int] | None, limit: int) -> list[dict[str, Any]]:
        return await history.trades(
            context.database, where, history.ns(start), history.ns(end), after, limit
        )

    after = None
    if query.cursor is not None:
        last_ns, last_id, count = decode_cursor(query.cursor, 3)
        after = (last_ns, last_id, min(count, 1000))
    if media != bulk.JSON:
        pages = bulk.paged(read, history.trades_after, after, query.limit)
        name = bulk.file_name((*where.values(), "trades", str(start), str(end)), media)
        return await bulk.answer(
            context.downloads, request, media, TRADE_COLUMNS, _in_ms(pages), name
        )
    found = await read(after, limit + 1)
    rows, cursor = found[:limit], None
    if len(found) > limit:
        cursor = encode_cursor(*history.trades_after(rows, after))
    link = next_link("/v1/trades", cursor, **where, start=start, end=end, limit=limit)
    page = TradePage([_trade(row) for row in rows], cursor, link)
    return json_answer(encode(page), (b"vary", b"Accept"))


def newest_trades(kept: Iterable[deque[Message]], limit: int) -> list[Message]:
    """Return the newest trades of some markets, oldest first.

    Whole exchanges have a million kept trades: only those that arrived last are looked at.
    """
    arrived = merge(*map(reversed, kept), key=attrgetter("received_ns"), reverse=True)
    found = sorted(
        islice(arrived, LATE * limit), key=lambda one: (one.exchange_ns or one.received_ns, one.id)
    )
    return found[-limit:]


async def _as_columns(trades: list[Trade]) -> bulk.Pages:
    yield [
        {
            **to_builtins(one),
            "price": float(one.price),
            "size": float(one.size),
            "trade_id": int(one.trade_id),
        }
        for one in trades
    ]


async def _in_ms(pages: bulk.Pages) -> bulk.Pages:
    async for rows in pages:
        yield [{**row, "ts": row["ns"] // MILLISECOND_NS} for row in rows]


def _trade(row: dict[str, Any]) -> Trade:
    return Trade(
        ts=row["ns"] // MILLISECOND_NS,
        exchange=row["exchange"],
        market=row["market"],
        price=decimal(row["price"]) or "0",
        size=decimal(row["size"]) or "0",
        side="sell" if row["side"] == "sell" else "buy",
        trade_id=str(row["trade_id"]),
        trades=row["trades"],
    )
