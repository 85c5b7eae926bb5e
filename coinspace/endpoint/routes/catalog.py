"""`/v1/assets` and `/v1/markets`: what this endpoint has."""

from __future__ import annotations

from typing import Annotated

from blacksheep.messages import Request, Response
from msgspec import Meta, Struct

from coinspace.constituents import assets_with
from coinspace.endpoint.context import Context
from coinspace.endpoint.http.api import Nothing, Routes, encode, json_answer
from coinspace.endpoint.live.facts import market_facts
from coinspace.endpoint.live.venues import reported
from coinspace.endpoint.models import Asset, Assets, Market, Markets
from coinspace.endpoint.records import region_of
from coinspace.endpoint.routes.market import ExchangeName
from coinspace.endpoint.values import milliseconds
from coinspace.exchanges.identity import identity
from coinspace.market import Market as Pair
from coinspace.market import as_named

routes = Routes()

Name = Annotated[str, Meta(max_length=20)]


class MarketsQuery(Struct, forbid_unknown_fields=True):
    """Which markets; all without a parameter."""

    exchange: ExchangeName | None = None
    asset: Name | None = None
    quote: Name | None = None


@routes.get("/v1/assets", Nothing, answer=Assets, tag="market")
async def assets(context: Context, request: Request, _: None) -> Response:
    """Every asset with its markets, and the state of its index where it has one."""
    now, indices = context.now_ms(), context.settings.index.assets
    markets: dict[str, list[tuple[str, Pair]]] = {asset: [] for asset in indices}
    for exchange, name in context.all_markets():
        pair = Pair.parse(name)
        markets.setdefault(_asset(context, exchange, pair), []).append((exchange, pair))
    listed = []
    for asset, traded in sorted(markets.items()):
        latest = context.live.indices.get(asset)
        stale = None if latest is None else latest.stale_reason(now, context.stale_ms) is not None
        has_index = asset in indices
        listed.append(
            Asset(
                asset=asset,
                index=has_index,
                status=(latest.value.status if latest else "no_value") if has_index else None,
                stale=stale if has_index else None,
                quotes=list(dict.fromkeys(pair.quote for _, pair in traded)),
                exchanges=list(dict.fromkeys(exchange for exchange, _ in traded)),
                markets=[f"{exchange}:{pair}" for exchange, pair in traded],
            )
        )
    return json_answer(encode(Assets(now, listed)))


@routes.get("/v1/markets", MarketsQuery, answer=Markets, tag="market", problems=("unknown-market",))
async def markets(context: Context, request: Request, query: MarketsQuery) -> Response:
    """Every market that is collected: its state, the times of its newest messages, and its facts.

    `facts` has wallets, warnings, notices and the state of trading as far as the exchange gives
    them in public.
    """
    exchange = None if query.exchange is None else context.check_exchange(query.exchange)
    asset, quote = (None if one is None else as_named(one) for one in (query.asset, query.quote))
    listed = []
    for name, text in context.all_markets():
        pair = Pair.parse(text)
        if exchange in (None, name) and quote in (None, pair.quote):
            found = _market(context, name, pair)
            if asset in (None, found.asset):
                listed.append(found)
    return json_answer(encode(Markets(context.now_ms(), listed)))


def _asset(context: Context, exchange: str, pair: Pair) -> str:
    return identity(exchange, pair.base, context.clock()).asset


def _market(context: Context, exchange: str, pair: Pair) -> Market:
    live, key = context.live, (exchange, str(pair))
    state, reason, since = reported(context, *key)
    book, ticker, trades = live.alive_ns.get(key), live.tickers.get(key), live.trades.get(key)
    return Market(
        venue=":".join(key),
        exchange=exchange,
        market=str(pair),
        base=pair.base,
        quote=pair.quote,
        asset=_asset(context, exchange, pair),
        region=region_of(exchange),
        index=bool(assets_with(context.settings.index, exchange, pair)),
        state=state,
        reason=reason,
        since=since,
        book_ts=milliseconds(book),
        ticker_ts=milliseconds(ticker.received_ns) if ticker is not None else None,
        trade_ts=milliseconds(trades[-1].exchange_ns or trades[-1].received_ns) if trades else None,
        depth=context.settings.exchanges[exchange].depth,
        facts=market_facts(live, *key),
    )
