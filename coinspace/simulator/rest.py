"""REST of the simulated exchanges: answers from the markets' state, limits, refusals.

The exchange's module shapes the answers, from a simulated market as from a recording.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from datetime import UTC, datetime
from functools import cache
from typing import Any

from coinspace.exchanges import bithumb
from coinspace.exchanges import exchange as exchange_named
from coinspace.exchanges.binance import DEFAULT_LEVELS, STREAM_DEPTH, depth_weight
from coinspace.exchanges.exchange import number
from coinspace.exchanges.korean import TICKERS, TRADES
from coinspace.simulator.answer import Answer as Answer
from coinspace.simulator.answer import answer as answer
from coinspace.simulator.markets.engine import Engine
from coinspace.simulator.markets.korean import KST_S
from coinspace.simulator.markets.market import MILLISECOND_NS, Event, SimulatedMarket
from coinspace.window import Used

BINANCE_WEIGHT = 6000
BAN_S = 120
IGNORED_429 = 10
BLOCK_S = 10
RESTRICTED = (
    "Service unavailable from a restricted location according to 'b. Eligibility' in"
    " https://www.binance.com/en/terms."
)


def block_of(seconds: int) -> Any:
    """Return the body of Upbit's refusal of a blocked address."""
    text = f"I'm a teapot. Requests of this address are blocked for {seconds} seconds."
    return {"error": {"name": 418, "message": text}}


class Present:
    """The present state of simulated markets, as a `Recording` that answers REST requests."""

    def __init__(self, markets: Mapping[str, SimulatedMarket], *, micro: bool = False) -> None:
        self._markets = markets
        self._micro = micro

    @property
    def symbols(self) -> Collection[str]:
        return self._markets.keys()

    def last(self, kind: str, symbol: str) -> bytes | None:
        event = self._markets[symbol].snapshot(kind)
        return None if event is None else event.frame(event.market.plain)

    def trades(self, symbol: str) -> Iterable[bytes]:
        market = self._markets[symbol]
        variant = market.plain_micro if self._micro else market.plain
        for trade in market.recent:
            yield Event(market, "trade", trade.time_ns, trade).frame(variant)

    def book(self, symbol: str, levels: int) -> bytes | None:
        market = self._markets.get(symbol)
        text = None if market is None else market.snapshot_text(levels)
        return None if text is None else text.encode()


class Rest:
    """REST of one simulated exchange; each exchange's class has its limits."""

    def __init__(self, engine: Engine, exchange: str, *, limits: bool = True) -> None:
        self.engine = engine
        self.exchange = exchange_named(exchange)
        self.limits = limits
        self._markets = engine.markets.get(exchange, {})
        # weight per minute that other programs at the client's address use
        self.others = 0

    @property
    def markets(self) -> dict[str, SimulatedMarket]:
        """The markets that are listed now."""
        return {name: one for name, one in self._markets.items() if one.status != "delist"}

    def get(
        self, path: str, query: Mapping[str, str], now_s: float, *, micro: bool = False
    ) -> Answer:
        """Answer a GET.

        Args: now_s: a monotonic clock for the limits. micro: times in µs are asked for.
        """
        raise NotImplementedError

    def content(
        self, path: str, query: Mapping[str, str], *, micro: bool = False
    ) -> tuple[int, Any]:
        """Return status and content of an answer within the limits."""
        present = Present(self.markets, micro=micro)
        return self.exchange.answer(present, path, query, self.engine.now_ns)

    def coins_with(self, fact: str) -> set[str]:
        """Return the coins of markets with a fact: a closed wallet, or a warning."""
        return {one.market.base for one in self._markets.values() if fact in one.facts}

    @staticmethod
    def refusal(status: int) -> Any:
        """Return the body of a refusal with this status."""
        raise NotImplementedError


class KoreanRest(Rest):
    """Upbit."""

    # 10 requests a second per address and group; `Remaining-Req` has the number that is left
    rate = 10
    # an address that ignores refusals is blocked, each time for twice as long
    blocks = True
    groups: Mapping[str, str] = {
        "/v1/market/all": "market",
        "/v1/orderbook": "orderbook",
        TICKERS: "ticker",
        TRADES: "trade",
    }

    @staticmethod
    def refusal(status: int) -> Any:
        if status == 418:
            return block_of(BLOCK_S)
        return {"error": {"name": "too_many_requests" if status == 429 else status, "message": ""}}

    def __init__(self, engine: Engine, exchange: str, *, limits: bool = True) -> None:
        super().__init__(engine, exchange, limits=limits)
        self._windows = {group: Used(1.0) for group in self.groups.values()}
        self._refused = 0
        self._blocked_s = 0.0
        self._block_s = BLOCK_S

    def get(
        self, path: str, query: Mapping[str, str], now_s: float, *, micro: bool = False
    ) -> Answer:
        group = self.groups.get(path, "market")
        used = self._windows[group].add(now_s)
        headers = self._limit_headers(group, max(0, self.rate - used))
        if self.limits and now_s < self._blocked_s:
            # documented: the time is in the body; there is no header with it
            return answer(block_of(int(self._blocked_s - now_s) + 1), 418)
        if self.limits and used > self.rate:
            return self._refuse(now_s, headers)
        status, content = self.content(path, query)
        if path == "/v1/market/all" and isinstance(content, list):
            content = [self._warned(row) for row in content]
        return answer(content, status, headers)

    def _warned(self, row: dict[str, Any]) -> dict[str, Any]:
        event = row.get("market_event")
        if event is None or "warn" not in self._markets[row["market"]].facts:
            return row
        caution = event["caution"] | {"GLOBAL_PRICE_DIFFERENCES": True}
        return row | {"market_event": event | {"caution": caution}}

    def _refuse(self, now_s: float, headers: dict[str, str]) -> Answer:
        self._refused += 1
        if self.blocks and self._refused > IGNORED_429:
            self._refused = 0
            self._blocked_s = now_s + self._block_s
            self._block_s *= 2
        text = "Too many API requests."
        return answer({"error": {"name": "too_many_requests", "message": text}}, 429, headers)

    def _limit_headers(self, group: str, left: int) -> dict[str, str]:
        return {"Remaining-Req": f"group={group}; min={left * 60}; sec={left}"}


class BithumbRest(KoreanRest):
    """Bithumb: the same paths with its own rules."""

    # 150 requests a second per address and category
    rate = 150
    blocks = False

    def _limit_headers(self, group: str, left: int) -> dict[str, str]:
        return {
            "x-ratelimit-remaining": str(left),
            "x-ratelimit-requested-tokens": "1",
            "x-ratelimit-burst-capacity": "150",
            "x-ratelimit-replenish-rate": "150",
        }

    def content(
        self, path: str, query: Mapping[str, str], *, micro: bool = False
    ) -> tuple[int, Any]:
        status, content = super().content(path, query)
        if path == bithumb.WALLETS:
            closed = self.coins_with("wallet")
            for row in content["data"]:
                if row["currency"] in closed:
                    row["deposit_status"] = row["withdrawal_status"] = 0
        elif path == bithumb.WARNINGS:
            content = [self._alert(market) for market in self.markets.values()]
            content = [one for one in content if one is not None]
        elif path == bithumb.NOTICES:
            content = [self._notice(coin) for coin in sorted(self.coins_with("wallet"))]
        for row in content if isinstance(content, list) and path == TICKERS else ():
            # seen at Bithumb: the ticker's times are KST wall time read as UTC, 9 h ahead
            row["timestamp"] += KST_S * 1000
            row["trade_timestamp"] += KST_S * 1000
        return status, content

    def _alert(self, market: SimulatedMarket) -> dict[str, Any] | None:
        if "warn" not in market.facts:
            return None
        return {
            "market": market.symbol,
            "warning_type": "PRICE_DIFFERENCE_HIGH",
            "warning_step": "CAUTION",
            "end_date": self._kst(3600),
        }

    def _notice(self, coin: str) -> dict[str, Any]:
        return {
            "categories": ["입출금"],
            "title": f"{coin}({coin}) 입출금 일시 중지 안내",
            "pc_url": "https://feed.bithumb.com/notice/1649000",
            "published_at": self._kst(0),
        }

    def _kst(self, later_s: int) -> str:
        seconds = self.engine.now_ns // 1_000_000_000 // 60 * 60 + KST_S + later_s
        return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%d %H:%M:%S}"


class BinanceRest(Rest):
    """Binance."""

    # weights of the paths, without that of a book
    weights: Mapping[str, int] = {
        "/api/v3/exchangeInfo": 20,
        "/api/v3/trades": 25,
        "/api/v3/historicalTrades": 25,
        "/api/v3/aggTrades": 4,
    }

    @staticmethod
    def refusal(status: int) -> Any:
        if status == 451:
            return {"code": 0, "msg": RESTRICTED}
        text = "Way too much request weight used; IP banned. Please use WebSocket Streams."
        return {"code": -1003, "msg": text} if status in (418, 429) else {"code": -1000, "msg": ""}

    def __init__(self, engine: Engine, exchange: str, *, limits: bool = True) -> None:
        super().__init__(engine, exchange, limits=limits)
        self._window = Used(60.0)
        self._refused = 0
        self._banned_s = 0.0

    def get(
        self, path: str, query: Mapping[str, str], now_s: float, *, micro: bool = False
    ) -> Answer:
        weight = self.weights.get(path, 1)
        if path == "/api/v3/depth":
            weight = depth_weight(number(query.get("limit"), DEFAULT_LEVELS, STREAM_DEPTH))
        used = self._window.add(now_s, weight) + self.others
        # "Limits" (REST API): each answer has the weight that the address used in this minute
        headers = {"X-MBX-USED-WEIGHT": str(used), "X-MBX-USED-WEIGHT-1M": str(used)}
        if self.limits and (used > BINANCE_WEIGHT or now_s < self._banned_s):
            return self._refuse(now_s, headers)
        status, content = self.content(path, query, micro=micro)
        return answer(content, status, headers)

    def _refuse(self, now_s: float, headers: dict[str, str]) -> Answer:
        # "IP Limits" (REST API): 429 when a limit is broken, 418 for an address that goes on;
        # Retry-After has the seconds to wait
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

    def content(
        self, path: str, query: Mapping[str, str], *, micro: bool = False
    ) -> tuple[int, Any]:
        status, content = super().content(path, query, micro=micro)
        for row in content.get("symbols", ()) if isinstance(content, dict) else ():
            market = self._markets[row["symbol"]]
            row["baseAsset"], row["quoteAsset"] = market.market.base, market.market.quote
            row["status"] = "TRADING" if market.status == "active" else "HALT"
        return status, content


class CoinoneRest(Rest):
    """Coinone: one limit for all paths; errors have status 200, unknown paths give HTML."""

    # 1,200 requests a minute and address
    per_minute = 1200

    @staticmethod
    def refusal(status: int) -> Any:
        code = "4" if status in (418, 429) else "405"
        return {"result": "error", "error_code": code, "error_msg": "Blocked user access"}

    def __init__(self, engine: Engine, exchange: str, *, limits: bool = True) -> None:
        super().__init__(engine, exchange, limits=limits)
        self._used = Used(60.0)

    def get(
        self, path: str, query: Mapping[str, str], now_s: float, *, micro: bool = False
    ) -> Answer:
        left = self.per_minute - self._used.add(now_s)
        headers = {
            "public-ratelimit-remaining": str(max(0, left)),
            "public-ratelimit-replenish-rate": "20",
            "public-ratelimit-burst-capacity": str(self.per_minute),
        }
        if self.limits and left < 0:
            return answer(self.refusal(429), 200, headers)
        status, content = self.content(path, query)
        if isinstance(content, bytes):
            headers["Content-Type"] = "text/html;charset=UTF-8"
        return answer(content, status, headers)

    def content(
        self, path: str, query: Mapping[str, str], *, micro: bool = False
    ) -> tuple[int, Any]:
        status, content = super().content(path, query)
        for row in content.get("markets", ()) if isinstance(content, dict) else ():
            row["trade_status"] = int(self._markets[row["target_currency"]].status == "active")
        closed = self.coins_with("wallet")
        for row in content.get("currencies", ()) if isinstance(content, dict) else ():
            if row["symbol"] in closed:
                row["deposit_status"] = row["withdraw_status"] = "suspended"
        return status, content


class CoinbaseRest(Rest):
    """Coinbase: requests a second and address."""

    per_second = 10

    @staticmethod
    def refusal(status: int) -> Any:
        return {"message": "Public rate limit exceeded" if status == 429 else "Internal error"}

    def __init__(self, engine: Engine, exchange: str, *, limits: bool = True) -> None:
        super().__init__(engine, exchange, limits=limits)
        self._used = Used(1.0)

    def get(
        self, path: str, query: Mapping[str, str], now_s: float, *, micro: bool = False
    ) -> Answer:
        if self._used.add(now_s) > self.per_second and self.limits:
            return answer(self.refusal(429), 429)
        status, content = self.content(path, query)
        return answer(content, status)

    def content(
        self, path: str, query: Mapping[str, str], *, micro: bool = False
    ) -> tuple[int, Any]:
        status, content = super().content(path, query)
        for row in content if isinstance(content, list) and path == "/products" else ():
            row["trading_disabled"] = self._markets[row["id"]].status != "active"
        closed = self.coins_with("wallet")
        for row in content if path == "/currencies" else ():
            for network in row["supported_networks"] if row["id"] in closed else ():
                network["status"] = "offline"
        return status, content


# PROTOCOL of an exchange's module -> its REST
REST: dict[str, type[Rest]] = {
    "upbit": KoreanRest,
    "bithumb": BithumbRest,
    "binance": BinanceRest,
    "coinone": CoinoneRest,
    "coinbase": CoinbaseRest,
}


@cache
def fact_paths(exchange: str) -> frozenset[str]:
    """Return the paths of an exchange that are asked for facts beside the price only."""
    sources = exchange_named(exchange).FACTS
    return frozenset(one.request.path for one in sources if one.request.purpose == "facts")


def rest_of(exchange: str) -> type[Rest]:
    return REST[exchange_named(exchange).PROTOCOL]
