"""`/v1/tickers` and `/v1/trades`: data of single exchanges."""

from __future__ import annotations

from typing import Annotated, Any

from blacksheep.messages import Request, Response
from msgspec import Meta, Struct

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

TRADE_COLUMNS: bulk.Columns = {
    "ts": "time",
    "exchange": "text",
    "market": "text",
    "side": "text",
    "price": "number",
    "size": "number",
    "trade_id": "integer",
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
    limit: Limit = 100
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
    """Trades, oldest first: the newest ones, or those stored in [start, end)."""
    keys = _chosen(context, query)
    media = bulk.accepted(request)
    stored = query.start is not None or query.end is not None or query.cursor is not None
    if not stored and media == bulk.JSON:
        newest = [one for key in keys for one in context.live.trades.get(key, ())]
        newest.sort(key=lambda one: (one.exchange_ns or one.received_ns, one.id))
        page = TradePage([market.trade(context, one) for one in newest[-query.limit :]], None, None)
        return json_answer(encode(page), (b"vary", b"Accept"))
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

    if media != bulk.JSON:
        pages = bulk.paged(lambda after: read(after, bulk.PAGE_ROWS), history.trades_after)
        name = bulk.file_name((*where.values(), "trades", str(start), str(end)), media)
        return await bulk.answer(
            context.downloads, request, media, TRADE_COLUMNS, _in_ms(pages), name
        )
    after = None
    if query.cursor is not None:
        last_ns, last_id, count = decode_cursor(query.cursor, 3)
        after = (last_ns, last_id, min(count, 1000))
    found = await read(after, query.limit + 1)
    shown, cursor = found[: query.limit], None
    if len(found) > query.limit:
        cursor = encode_cursor(*history.trades_after(shown, after))
    link = next_link("/v1/trades", cursor, **where, start=start, end=end, limit=query.limit)
    page = TradePage([_trade(row) for row in shown], cursor, link)
    return json_answer(encode(page), (b"vary", b"Accept"))


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
    )
