"""REST of the simulated exchanges: answers from the markets' state, limits, error bodies.

Rules (numbered at the code):
1. Upbit: 10 requests per second and group, `Remaining-Req`; one bad code fails the call with 404.
2. Bithumb: 150 per second and category; errors come with HTTP 200; the order book has 30 levels
   for one market, 15 for several; the ticker's times are KST wall time read as UTC (+9 h).
3. Binance: 6,000 weight per minute, `X-MBX-USED-WEIGHT-1M`; beyond it 429 with Retry-After, and
   418 for a client that ignores it.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any, NamedTuple, cast

import orjson

from coinspace.exchanges import exchange as exchange_named
from coinspace.exchanges.binance import names_of
from coinspace.exchanges.exchange import MOST_ID, number
from coinspace.exchanges.korean import NAMES
from coinspace.simulator.markets.binance import BinanceMarket
from coinspace.simulator.markets.engine import Engine
from coinspace.simulator.markets.korean import KST_S, KoreanMarket
from coinspace.simulator.markets.market import MILLISECOND_NS, SimulatedMarket, Trade
from coinspace.simulator.markets.spelling import short
from coinspace.window import Used

BINANCE_WEIGHT = 6000
BAN_S = 120
IGNORED_429 = 10
CAUTIONS = (
    "PRICE_FLUCTUATIONS",
    "TRADING_VOLUME_SOARING",
    "DEPOSIT_AMOUNT_SOARING",
    "GLOBAL_PRICE_DIFFERENCES",
    "CONCENTRATION_OF_SMALL_ACCOUNTS",
)


class Answer(NamedTuple):
    """A REST answer."""

    status: int
    body: bytes
    headers: Mapping[str, str] = {}


def answer(value: Any, status: int = 200, headers: Mapping[str, str] | None = None) -> Answer:
    """Return a JSON answer; bytes are already JSON."""
    body = value if isinstance(value, bytes) else orjson.dumps(value)
    return Answer(status, body, headers or {})


class Rest:
    """Base: routes a path to a method; each exchange's class has its rules."""

    def __init__(self, engine: Engine, exchange: str, *, limits: bool = True) -> None:
        self.engine = engine
        self.exchange = exchange
        self.limits = limits
        self._markets = engine.markets.get(exchange, {})
        # weight per minute that other programs at the client's address use
        self.others = 0

    @property
    def markets(self) -> dict[str, SimulatedMarket]:
        """The markets that are listed now."""
        return {name: one for name, one in self._markets.items() if one.status != "delist"}

    def get(self, path: str, query: Mapping[str, str], now_s: float) -> Answer:
        """Answer a GET; `now_s` is a monotonic clock for the limits."""
        raise NotImplementedError

    @staticmethod
    def refusal(status: int) -> Any:
        """Return the body of a refusal with this status."""
        raise NotImplementedError


def _number(units: int, decimals: int) -> int | float:
    text = short(units, decimals)
    return float(text) if "." in text else int(text)


class KoreanRest(Rest):
    """Upbit."""

    rate = 10
    groups = ("orderbook", "ticker", "trades", "market")

    @staticmethod
    def refusal(status: int) -> Any:
        return {"error": {"name": "too_many_requests" if status == 429 else status, "message": ""}}

    def __init__(self, engine: Engine, exchange: str, *, limits: bool = True) -> None:
        super().__init__(engine, exchange, limits=limits)
        self._windows = {group: Used(1.0) for group in self.groups}

    def get(self, path: str, query: Mapping[str, str], now_s: float) -> Answer:
        handlers = {
            "/v1/market/all": ("market", self._market_list),
            "/v1/orderbook": ("orderbook", self._orderbook),
            "/v1/orderbook/instruments": ("orderbook", self._instruments),
            "/v1/ticker": ("ticker", self._ticker),
            "/v1/ticker/all": ("ticker", self._ticker_all),
            "/v1/trades/ticks": ("trades", self._trades),
            "/v1/market/virtual_asset_warning": ("market", self._warnings),
        }
        if path not in handlers:
            text = "no Route matched with those values"
            return answer({"error": {"name": "not_found", "message": text}}, 404)
        group, handler = handlers[path]
        used = self._windows[group].add(now_s)
        headers = self._limit_headers(group, max(0, self.rate - used))
        # 1.
        if self.limits and used > self.rate:
            text = "Too many API requests."
            return answer({"error": {"name": "too_many_requests", "message": text}}, 429, headers)
        found = handler(query)
        return found._replace(headers={**headers, **found.headers})

    def _limit_headers(self, group: str, left: int) -> dict[str, str]:
        name = "trade" if group == "trades" else group
        return {"Remaining-Req": f"group={name}; min={left * 60}; sec={left}"}

    def error(self, status: int, text: str) -> Answer:
        """Return an error as the exchange sends it."""
        return answer({"error": {"name": status, "message": text}}, status)

    def _codes(self, query: Mapping[str, str]) -> list[KoreanMarket] | Answer:
        asked = query.get("markets")
        if not asked:
            text = "Missing request parameter error. Check the required parameters!"
            return self.error(400, text)
        codes = [code.upper() for code in asked.split(",")]
        if any(code not in self.markets for code in codes):
            return self.error(404, "Code not found")
        return [cast(KoreanMarket, self.markets[code]) for code in codes]

    def _market_list(self, query: Mapping[str, str]) -> Answer:
        rows = []
        for symbol, market in self.markets.items():
            base = market.market.base
            native, english = NAMES.get(base, (base, base))
            row: dict[str, Any] = {
                "market": symbol,
                "korean_name": native,
                "english_name": english,
            }
            if query.get("is_details", query.get("isDetails")) == "true":
                row |= self._details()
            rows.append(row)
        return answer(rows)

    def _details(self) -> dict[str, Any]:
        return {"market_event": {"warning": False, "caution": dict.fromkeys(CAUTIONS, False)}}

    def _depth(self, query: Mapping[str, str], n_markets: int) -> int:
        return number(query.get("count"), 30, 30)

    def _orderbook(self, query: Mapping[str, str]) -> Answer:
        markets = self._codes(query)
        if isinstance(markets, Answer):
            return markets
        depth = self._depth(query, len(markets))
        rows = []
        for market in markets:
            asks, bids = market.asks.top(depth), market.bids.top(depth)
            asks += [(0, 0)] * (depth - len(asks))
            bids += [(0, 0)] * (depth - len(bids))
            size, price = market.size_decimals, market.price_decimals
            rows.append(
                {
                    "market": market.symbol,
                    "timestamp": market.book_ns // MILLISECOND_NS + market.clock_ms,
                    "total_ask_size": _number(sum(n for _, n in asks), size),
                    "total_bid_size": _number(sum(n for _, n in bids), size),
                    "orderbook_units": [
                        {
                            "ask_price": _number(market.price_units(ask), price),
                            "bid_price": _number(market.price_units(bid), price),
                            "ask_size": _number(ask_size, size),
                            "bid_size": _number(bid_size, size),
                        }
                        for (ask, ask_size), (bid, bid_size) in zip(asks, bids, strict=True)
                    ],
                    "level": 0,
                }
            )
        return answer(rows)

    def _instruments(self, query: Mapping[str, str]) -> Answer:
        markets = self._codes(query)
        if isinstance(markets, Answer):
            return markets
        return answer(
            [
                {
                    "market": market.symbol,
                    "quote_currency": market.market.quote,
                    "tick_size": short(market.tick, market.price_decimals),
                    "supported_levels": [str(level) for level in market.levels_supported()],
                }
                for market in markets
            ]
        )

    def _ticker(self, query: Mapping[str, str]) -> Answer:
        markets = self._codes(query)
        if isinstance(markets, Answer):
            return markets
        return self._tickers(markets)

    def _ticker_all(self, query: Mapping[str, str]) -> Answer:
        quotes = query.get("quote_currencies", "KRW").split(",")
        chosen = [m for m in self.markets.values() if m.market.quote in quotes]
        return self._tickers([cast(KoreanMarket, market) for market in chosen])

    def _tickers(self, markets: list[KoreanMarket]) -> Answer:
        rows = []
        for market in markets:
            trade = market.recent[-1]
            fields = ",".join(f'"{k}":{v}' for k, _, v in market.ticker_fields(trade))
            kst = time.gmtime(trade.time_ns // 10**9 + KST_S)
            rows.append(
                f'{{"market":"{market.symbol}",{fields},'
                f'"trade_date_kst":"{time.strftime("%Y%m%d", kst)}",'
                f'"trade_time_kst":"{time.strftime("%H%M%S", kst)}"}}'
            )
        return answer(f"[{','.join(rows)}]".encode())

    def _trades(self, query: Mapping[str, str]) -> Answer:
        markets = self._codes({"markets": query.get("market", "")})
        if isinstance(markets, Answer):
            return markets
        market = markets[0]
        cursor = query.get("cursor")
        trades = [t for t in market.recent if self._id(t) < number(cursor, MOST_ID, MOST_ID)]
        count = number(query.get("count"), 1, 500)
        return answer([self._trade(market, trade) for trade in reversed(trades[-count:])])

    def _id(self, trade: Trade) -> int:
        return trade.id

    def _trade(self, market: KoreanMarket, trade: Trade) -> dict[str, Any]:
        utc = time.gmtime(trade.time_ns // 10**9)
        price = market.price_decimals
        before = market.price_units(market.day.previous)
        units = market.price_units(trade.tick)
        return {
            "market": market.symbol,
            "trade_date_utc": time.strftime("%Y-%m-%d", utc),
            "trade_time_utc": time.strftime("%H:%M:%S", utc),
            "timestamp": trade.time_ns // MILLISECOND_NS + market.clock_ms,
            "trade_price": _number(units, price),
            "trade_volume": _number(trade.size, market.size_decimals),
            "prev_closing_price": _number(before, price),
            "change_price": _number(units - before, price),
            "ask_bid": "ASK" if trade.taker_sold else "BID",
            "sequential_id": self._id(trade),
        }

    def _warnings(self, query: Mapping[str, str]) -> Answer:
        text = "no Route matched with those values"
        return answer({"error": {"name": "not_found", "message": text}}, 404)


class BithumbRest(KoreanRest):
    """Bithumb: the same paths with its own rules."""

    rate = 150

    def _limit_headers(self, group: str, left: int) -> dict[str, str]:
        return {
            "x-ratelimit-remaining": str(left),
            "x-ratelimit-requested-tokens": "1",
            "x-ratelimit-burst-capacity": "150",
            "x-ratelimit-replenish-rate": "150",
        }

    def error(self, status: int, text: str) -> Answer:
        # 2.
        return answer({"error": {"name": status, "message": text}}, 200)

    def _details(self) -> dict[str, Any]:
        return {"market_warning": "NONE"}

    def _depth(self, query: Mapping[str, str], n_markets: int) -> int:
        return 30 if n_markets == 1 else 15

    def _id(self, trade: Trade) -> int:
        # REST ids differ from the WebSocket's
        return trade.time_ns // MILLISECOND_NS * 10_000 + trade.id % 10

    def _tickers(self, markets: list[KoreanMarket]) -> Answer:
        if len(markets) > 200:
            return self.error(400, "Parameter 'markets' must be less than or equal to 200 items.")
        rows = orjson.loads(super()._tickers(markets).body)
        for row in rows:
            # 2.
            row["timestamp"] += KST_S * 1000
            row["trade_timestamp"] += KST_S * 1000
        return answer(rows)

    def _warnings(self, query: Mapping[str, str]) -> Answer:
        return answer([])


class BinanceRest(Rest):
    """Binance."""

    @staticmethod
    def refusal(status: int) -> Any:
        text = "Way too much request weight used; IP banned. Please use WebSocket Streams."
        return {"code": -1003, "msg": text} if status in (418, 429) else {"code": -1000, "msg": ""}

    def __init__(self, engine: Engine, exchange: str, *, limits: bool = True) -> None:
        super().__init__(engine, exchange, limits=limits)
        self._window = Used(60.0)
        self._refused = 0
        self._banned_s = 0.0

    def get(self, path: str, query: Mapping[str, str], now_s: float) -> Answer:
        handlers = {
            "/api/v3/ping": (1, self._ping),
            "/api/v3/time": (1, self._time),
            "/api/v3/exchangeInfo": (20, self._exchange_info),
            "/api/v3/depth": (self._depth_weight(query), self._depth),
            "/api/v3/trades": (25, self._trades),
            "/api/v3/historicalTrades": (25, self._trades),
            "/api/v3/aggTrades": (4, self._aggregate_trades),
            "/api/v3/ticker/24hr": (2 if "symbol" in query else 80, self._day),
            "/api/v3/ticker/price": (2 if "symbol" in query else 4, self._price),
            "/api/v3/ticker/bookTicker": (2 if "symbol" in query else 4, self._book_ticker),
        }
        if path not in handlers:
            return Answer(404, b"<html><body>Not Found</body></html>")
        weight, handler = handlers[path]
        used = self._window.add(now_s, weight) + self.others
        headers = {"X-MBX-USED-WEIGHT": str(used), "X-MBX-USED-WEIGHT-1M": str(used)}
        if self.limits and (used > BINANCE_WEIGHT or now_s < self._banned_s):
            return self._refuse(now_s, headers)
        found = handler(query)
        return found._replace(headers={**headers, **found.headers})

    def _refuse(self, now_s: float, headers: dict[str, str]) -> Answer:
        # 3.
        self._refused += 1
        if self._refused > IGNORED_429 and now_s >= self._banned_s:
            self._banned_s = now_s + BAN_S
        banned = now_s < self._banned_s
        wait_s = int(self._banned_s - now_s) + 1 if banned else 30
        until_ms = self.engine.now_ns // MILLISECOND_NS + wait_s * 1000
        text = (
            f"Way too much request weight used; IP banned until {until_ms}. Please use WebSocket"
            " Streams for live updates to avoid bans."
        )
        headers = {**headers, "Retry-After": str(wait_s)}
        return answer({"code": -1003, "msg": text}, 418 if banned else 429, headers)

    @staticmethod
    def _depth_weight(query: Mapping[str, str]) -> int:
        limit = number(query.get("limit"), 100, 5000)
        return 5 if limit <= 100 else 25 if limit <= 500 else 50 if limit <= 1000 else 250

    def _one(self, query: Mapping[str, str]) -> BinanceMarket | Answer:
        symbol = query.get("symbol")
        if symbol is None:
            text = "Mandatory parameter 'symbol' was not sent, was empty/null, or malformed."
            return answer({"code": -1102, "msg": text}, 400)
        if symbol not in self.markets:
            return answer({"code": -1121, "msg": "Invalid symbol."}, 400)
        return cast(BinanceMarket, self.markets[symbol])

    def _chosen(self, query: Mapping[str, str]) -> list[BinanceMarket] | Answer:
        if "symbols" in query:
            names = names_of(query["symbols"])
        elif "symbol" in query:
            names = [query["symbol"]]
        else:
            names = list(self.markets)
        if any(name not in self.markets for name in names):
            return answer({"code": -1121, "msg": "Invalid symbol."}, 400)
        return [cast(BinanceMarket, self.markets[name]) for name in names]

    def _each(self, query: Mapping[str, str], row: Any) -> Answer:
        chosen = self._chosen(query)
        if isinstance(chosen, Answer):
            return chosen
        rows = [row(market) for market in chosen]
        return answer(rows[0] if "symbol" in query else rows)

    def _ping(self, query: Mapping[str, str]) -> Answer:
        return answer({})

    def _time(self, query: Mapping[str, str]) -> Answer:
        return answer({"serverTime": self.engine.now_ns // MILLISECOND_NS})

    def _exchange_info(self, query: Mapping[str, str]) -> Answer:
        chosen = self._chosen(query)
        if isinstance(chosen, Answer):
            return chosen
        limits = [
            {
                "rateLimitType": "REQUEST_WEIGHT",
                "interval": "MINUTE",
                "intervalNum": 1,
                "limit": BINANCE_WEIGHT,
            },
            {
                "rateLimitType": "RAW_REQUESTS",
                "interval": "MINUTE",
                "intervalNum": 5,
                "limit": 300_000,
            },
        ]
        return answer(
            {
                "timezone": "UTC",
                "serverTime": self.engine.now_ns // MILLISECOND_NS,
                "rateLimits": limits,
                "exchangeFilters": [],
                "symbols": [self._symbol(market) for market in chosen],
            }
        )

    @staticmethod
    def _symbol(market: BinanceMarket) -> dict[str, Any]:
        tick = short(market.tick, market.price_decimals)
        step = short(1, market.size_decimals)
        return {
            "symbol": market.symbol,
            "status": "TRADING" if market.status == "active" else "HALT",
            "baseAsset": market.market.base,
            "baseAssetPrecision": 8,
            "quoteAsset": market.market.quote,
            "quotePrecision": 8,
            "quoteAssetPrecision": 8,
            "orderTypes": ["LIMIT", "LIMIT_MAKER", "MARKET"],
            "isSpotTradingAllowed": True,
            "filters": [
                {"filterType": "PRICE_FILTER", "tickSize": tick},
                {"filterType": "LOT_SIZE", "stepSize": step},
            ],
            "permissions": [],
            "permissionSets": [["SPOT"]],
        }

    def _depth(self, query: Mapping[str, str]) -> Answer:
        market = self._one(query)
        if isinstance(market, Answer):
            return market
        return answer(market.book_text(number(query.get("limit"), 100, 5000)).encode())

    def _recent(self, market: BinanceMarket, query: Mapping[str, str]) -> list[Trade]:
        limit = number(query.get("limit"), 500, 1000)
        if "fromId" in query:
            first = number(query["fromId"], 0, MOST_ID)
            return [trade for trade in market.recent if trade.id >= first][:limit]
        return market.recent[-limit:]

    def _trades(self, query: Mapping[str, str]) -> Answer:
        market = self._one(query)
        if isinstance(market, Answer):
            return market
        price, size = market.spell_price, market.spell_size
        decimals = market.price_decimals + market.size_decimals
        return answer(
            [
                {
                    "id": trade.id,
                    "price": price(trade.tick),
                    "qty": size(trade.size),
                    "quoteQty": short(trade.tick * trade.size, decimals),
                    "time": trade.time_ns // MILLISECOND_NS + market.clock_ms,
                    "isBuyerMaker": trade.taker_sold,
                    "isBestMatch": True,
                }
                for trade in self._recent(market, query)
            ]
        )

    def _aggregate_trades(self, query: Mapping[str, str]) -> Answer:
        market = self._one(query)
        if isinstance(market, Answer):
            return market
        shift = market.trade_id - market.aggregate_id
        asked = dict(query)
        if "fromId" in asked:
            asked["fromId"] = str(number(asked["fromId"], 0, MOST_ID) + shift)
        return answer(
            [
                {
                    "a": trade.id - shift,
                    "p": market.spell_price(trade.tick),
                    "q": market.spell_size(trade.size),
                    "f": trade.id,
                    "l": trade.id,
                    "T": trade.time_ns // MILLISECOND_NS + market.clock_ms,
                    "m": trade.taker_sold,
                    "M": True,
                }
                for trade in self._recent(market, asked)
            ]
        )

    def _day(self, query: Mapping[str, str]) -> Answer:
        def row(market: BinanceMarket) -> dict[str, Any]:
            day = market.day_fields()
            close = self.engine.now_ns // MILLISECOND_NS
            return {
                "symbol": market.symbol,
                "priceChange": day["change"],
                "priceChangePercent": day["percent"],
                "weightedAvgPrice": day["mean"],
                "lastPrice": day["last"],
                "lastQty": day["last_size"],
                "openPrice": day["open"],
                "highPrice": day["high"],
                "lowPrice": day["low"],
                "volume": day["volume"],
                "quoteVolume": day["worth"],
                "openTime": close - 86_400_000,
                "closeTime": close,
                "firstId": day["first_id"],
                "lastId": day["last_id"],
                "count": day["last_id"] - day["first_id"] + 1,
            }

        return self._each(query, row)

    def _price(self, query: Mapping[str, str]) -> Answer:
        return self._each(
            query, lambda m: {"symbol": m.symbol, "price": m.spell_price(m.last.tick)}
        )

    def _book_ticker(self, query: Mapping[str, str]) -> Answer:
        def row(market: BinanceMarket) -> dict[str, Any]:
            bid, ask = market.bids.top(1)[0], market.asks.top(1)[0]
            price, size = market.spell_price, market.spell_size
            return {
                "symbol": market.symbol,
                "bidPrice": price(bid[0]),
                "bidQty": size(bid[1]),
                "askPrice": price(ask[0]),
                "askQty": size(ask[1]),
            }

        return self._each(query, row)


# PROTOCOL of an exchange's module -> its REST
REST: dict[str, type[Rest]] = {
    "upbit": KoreanRest,
    "bithumb": BithumbRest,
    "binance": BinanceRest,
}


def rest_of(exchange: str) -> type[Rest]:
    """Return the REST class of an exchange."""
    return REST[exchange_named(exchange).PROTOCOL]
