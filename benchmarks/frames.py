"""Seeded frames in the exchanges' wire formats: 64 different ones a kind, alike on all machines.

Shapes and spellings follow frames seen on the wire: Upbit's prices with `.0` and sizes below
0.001 in exponent form (about 6 %), Bithumb's plain numbers, Binance's quoted eight decimals. One
frame repeated would let the branch predictor learn it, and every figure would be too good.
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from decimal import Decimal
from typing import Any, TypeVar

import orjson

from coinspace.exchanges import binance_sbe

T = TypeVar("T")
COUNT = 64
SEED = 7
INPUT = f"{COUNT} generated frames, seed {SEED}"
EPOCH_MS = 1_790_134_742_106
# update id of the first of `diffs`
FIRST_ID = 100_530_416_203
# names of Coinone's keys in the SHORT format
COINONE_SHORT = {
    "response_type": "r",
    "channel": "c",
    "data": "d",
    "quote_currency": "qc",
    "target_currency": "tc",
    "timestamp": "t",
    "id": "i",
    "asks": "a",
    "bids": "b",
    "price": "p",
    "qty": "q",
    "is_seller_maker": "sm",
    "quote_volume": "qv",
    "target_volume": "tv",
    "high": "hi",
    "low": "lo",
    "first": "fi",
    "last": "la",
    "ask_best_price": "abp",
    "ask_best_qty": "abq",
    "bid_best_price": "bbp",
    "bid_best_qty": "bbq",
    "yesterday_high": "yhi",
}
# names of Upbit's and Bithumb's keys in the SIMPLE format
SHORT = {
    "type": "ty",
    "code": "cd",
    "timestamp": "tms",
    "total_ask_size": "tas",
    "total_bid_size": "tbs",
    "orderbook_units": "obu",
    "ask_price": "ap",
    "bid_price": "bp",
    "ask_size": "as",
    "bid_size": "bs",
    "stream_type": "st",
    "level": "lv",
}


def _java(value: float) -> str:
    # Upbit's servers print numbers as Java does: below 0.001 with an exponent, always with a point
    if value and value < 1e-3:
        mantissa, _, exponent = f"{value:.7e}".partition("e")
        return f"{mantissa.rstrip('0').rstrip('.')}E{int(exponent)}"
    text = f"{value:.8f}".rstrip("0")
    return text + "0" if text.endswith(".") else text


def _size(rng: random.Random) -> float:
    return max(1e-8, round(rng.lognormvariate(-2.3, 3.0) % 40, 8))


def upbit_book(rng: random.Random, *, units: int = 30, simple: bool = False) -> str:
    """Return an Upbit order book of KRW-BTC; simple: short keys."""
    mid = 116_000_000 + rng.randrange(-2_000, 2_000) * 1_000
    gap = rng.randint(1, 5)
    levels = []
    ask_total = bid_total = 0.0
    for i in range(units):
        ask, bid = mid + (gap + i) * 1_000, mid - i * 1_000
        ask_size, bid_size = _size(rng), _size(rng)
        ask_total += ask_size
        bid_total += bid_size
        levels.append(
            f'{{"ask_price":{ask}.0,"bid_price":{bid}.0,'
            f'"ask_size":{_java(ask_size)},"bid_size":{_java(bid_size)}}}'
        )
    text = (
        f'{{"type":"orderbook","code":"KRW-BTC","timestamp":{EPOCH_MS + rng.randrange(10**8)},'
        f'"total_ask_size":{ask_total:.8f},"total_bid_size":{bid_total:.8f},'
        f'"orderbook_units":[{",".join(levels)}],"stream_type":"REALTIME","level":0}}'
    )
    if simple:
        for long, short in SHORT.items():
            text = text.replace(f'"{long}":', f'"{short}":')
    return text


def bithumb_book(rng: random.Random) -> str:
    """Return a Bithumb order book: 15 units, sizes of four decimals, time in µs."""
    mid = 116_204_000 + rng.randrange(-2_000, 2_000) * 1_000
    levels = []
    for i in range(15):
        ask_size, bid_size = (f"{_size(rng):.4f}".rstrip("0").rstrip(".") for _ in range(2))
        levels.append(
            f'{{"ask_price":{mid + (i + 1) * 1000},"bid_price":{mid - i * 1000},'
            f'"ask_size":{ask_size},"bid_size":{bid_size}}}'
        )
    return (
        f'{{"type":"orderbook","code":"KRW-BTC","total_ask_size":{_size(rng):.4f},'
        f'"total_bid_size":{_size(rng):.4f},"orderbook_units":[{",".join(levels)}],'
        f'"level":1,"timestamp":{(EPOCH_MS + rng.randrange(10**8)) * 1000 + rng.randrange(1000)},'
        '"stream_type":"REALTIME"}'
    )


def _pairs(rng: random.Random, best: float, step: float, count: int, *, zeros: float = 0.0) -> str:
    price, pairs = best, []
    for _ in range(count):
        size = 0.0 if rng.random() < zeros else round(_size(rng), 5)
        pairs.append(f'["{price:.8f}","{size:.8f}"]')
        price += step * rng.randint(1, 40)
    return ",".join(pairs)


def binance_depth20(rng: random.Random) -> str:
    """Return a combined-stream frame of Binance's 20 best levels."""
    mid = 86_700 + rng.randrange(100_000) / 100
    return (
        f'{{"stream":"btcusdt@depth20@100ms","data":{{"lastUpdateId":'
        f"{100_530_416_202 + rng.randrange(10**9)},"
        f'"bids":[{_pairs(rng, mid, -0.01, 20)}],"asks":[{_pairs(rng, mid + 0.01, 0.01, 20)}]}}}}'
    )


def binance_diff(rng: random.Random, first: int = FIRST_ID, mid: float | None = None) -> str:
    """Return a combined-stream depth update of 48 levels, a fifth of them deletions."""
    mid = 86_700 + rng.randrange(100_000) / 100 if mid is None else mid
    last = first + rng.randrange(1, 40)
    return (
        f'{{"stream":"btcusdt@depth@100ms","data":{{"e":"depthUpdate",'
        f'"E":{EPOCH_MS + rng.randrange(10**8)},"s":"BTCUSDT","U":{first},"u":{last},'
        f'"b":[{_pairs(rng, mid, -0.01, 24, zeros=0.2)}],'
        f'"a":[{_pairs(rng, mid + 0.01, 0.01, 24, zeros=0.2)}]}}}}'
    )


def upbit_trade(rng: random.Random, *, simple: bool = False) -> str:
    """Return an Upbit trade of KRW-BTC."""
    time_ms = EPOCH_MS + rng.randrange(10**8)
    price = 116_000_000 + rng.randrange(2_000) * 1_000
    side = rng.choice(("ASK", "BID"))
    if simple:
        return (
            f'{{"ty":"trade","cd":"KRW-BTC","tms":{time_ms},"td":"2026-09-23","ttm":"03:39:02",'
            f'"ttms":{time_ms - 33},"tp":{price}.0,"tv":{_java(_size(rng))},"ab":"{side}",'
            f'"pcp":115990000.0,"c":"RISE","cp":10000.0,"sid":{time_ms}0001,"st":"REALTIME"}}'
        )
    return (
        f'{{"type":"trade","code":"KRW-BTC","timestamp":{time_ms},"trade_date":"2026-09-23",'
        f'"trade_time":"03:39:02","trade_timestamp":{time_ms - 33},"trade_price":{price}.0,'
        f'"trade_volume":{_java(_size(rng))},"ask_bid":"{side}",'
        '"prev_closing_price":115990000.0,"change":"RISE","change_price":10000.0,'
        f'"sequential_id":{time_ms}0001,"best_ask_price":{price + 1000}.0,'
        f'"best_ask_size":{_java(_size(rng))},"best_bid_price":{price}.0,'
        f'"best_bid_size":{_java(_size(rng))},"stream_type":"REALTIME"}}'
    )


def bithumb_trade(rng: random.Random) -> str:
    """Return a Bithumb trade of KRW-BTC."""
    time_ms = EPOCH_MS + rng.randrange(10**8)
    price = 116_000_000 + rng.randrange(2_000) * 1_000
    return (
        f'{{"type":"trade","code":"KRW-BTC","trade_price":{price},'
        f'"trade_volume":{_size(rng):.4f},"ask_bid":"{rng.choice(("ASK", "BID"))}",'
        '"prev_closing_price":115990000,"change":"RISE","change_price":10000,'
        '"trade_date":"2026-09-23","trade_time":"12:18:33",'
        f'"trade_timestamp":{time_ms - 33},"sequential_id":{10**18 + rng.randrange(10**17)},'
        f'"timestamp":{time_ms},"stream_type":"REALTIME"}}'
    )


def binance_trade(rng: random.Random) -> str:
    """Return a combined-stream Binance trade."""
    time_ms = EPOCH_MS + rng.randrange(10**8)
    price, size = 86_700 + rng.randrange(100_000) / 100, round(_size(rng), 5)
    return (
        f'{{"stream":"btcusdt@trade","data":{{"e":"trade","E":{time_ms},"s":"BTCUSDT",'
        f'"t":{6_720_857_582 + rng.randrange(10**6)},"p":"{price:.8f}","q":"{size:.8f}",'
        f'"T":{time_ms},"m":{rng.choice(("true", "false"))},"M":true}}}}'
    )


def _korean_ticker(rng: random.Random, dot: str) -> str:
    time_ms = EPOCH_MS + rng.randrange(10**8)
    price = 116_000_000 + rng.randrange(2_000) * 1_000
    rate = rng.randrange(10**6) / 10**8
    return (
        f'{{"type":"ticker","code":"KRW-BTC","opening_price":{price - 9000}{dot},'
        f'"high_price":{price + 80000}{dot},"low_price":{price - 70000}{dot},'
        f'"trade_price":{price}{dot},"prev_closing_price":{price - 9000}{dot},'
        f'"acc_trade_price":{rng.randrange(10**15) / 10**5:.5f},"change":"RISE",'
        f'"change_price":9000{dot},"signed_change_price":9000{dot},"change_rate":{rate:.10f},'
        f'"signed_change_rate":{rate:.10f},"ask_bid":"BID","trade_volume":{_java(_size(rng))},'
        f'"acc_trade_volume":{rng.randrange(10**11) / 10**8:.8f},"trade_date":"20260923",'
        f'"trade_time":"033902","trade_timestamp":{time_ms - 30},'
        f'"acc_ask_volume":{rng.randrange(10**11) / 10**8:.8f},'
        f'"acc_bid_volume":{rng.randrange(10**11) / 10**8:.8f},'
        f'"highest_52_week_price":163325000{dot},"highest_52_week_date":"2025-10-09",'
        f'"lowest_52_week_price":92100000{dot},"lowest_52_week_date":"2026-02-06",'
        '"market_state":"ACTIVE","is_trading_suspended":false,"delisting_date":null,'
        f'"market_warning":"NONE","timestamp":{time_ms},'
        f'"acc_trade_price_24h":{rng.randrange(10**16) / 10**5:.5f},'
        f'"acc_trade_volume_24h":{rng.randrange(10**12) / 10**8:.8f},"stream_type":"REALTIME"}}'
    )


def upbit_ticker(rng: random.Random) -> str:
    """Return an Upbit ticker of KRW-BTC, 33 fields."""
    return _korean_ticker(rng, ".0")


def bithumb_ticker(rng: random.Random) -> str:
    """Return a Bithumb ticker of KRW-BTC."""
    return _korean_ticker(rng, "")


def binance_ticker(rng: random.Random) -> str:
    """Return a combined-stream Binance 24-hour ticker."""
    time_ms = EPOCH_MS + rng.randrange(10**8)
    price = 86_700 + rng.randrange(100_000) / 100
    volume = rng.randrange(10**9) / 10**5
    return (
        f'{{"stream":"btcusdt@ticker","data":{{"e":"24hrTicker","E":{time_ms},"s":"BTCUSDT",'
        f'"p":"{rng.randrange(10**5) / 100:.8f}","P":"0.326","w":"{price - 31:.8f}",'
        f'"x":"{price - 282:.8f}","c":"{price:.8f}","Q":"{_size(rng):.8f}",'
        f'"b":"{price - 0.01:.8f}","B":"{_size(rng):.8f}","a":"{price:.8f}","A":"{_size(rng):.8f}",'
        f'"o":"{price - 282:.8f}","h":"{price + 900:.8f}","l":"{price - 1400:.8f}",'
        f'"v":"{volume:.8f}","q":"{volume * price:.8f}","O":{time_ms - 86_400_000},"C":{time_ms},'
        f'"F":{6_717_000_000 + rng.randrange(10**6)},"L":{6_720_857_582 + rng.randrange(10**6)},'
        f'"n":{rng.randrange(10**7)}}}}}'
    )


def binance_top(rng: random.Random) -> str:
    """Return a combined-stream frame of Binance's best bid and ask (bookTicker)."""
    price = 86_700 + rng.randrange(100_000) / 100
    return (
        f'{{"stream":"btcusdt@bookTicker","data":{{"u":{FIRST_ID + rng.randrange(10**9)},'
        f'"s":"BTCUSDT","b":"{price:.8f}","B":"{_size(rng):.8f}","a":"{price + 0.01:.8f}",'
        f'"A":"{_size(rng):.8f}"}}}}'
    )


def _coinone(rng: random.Random, channel: str, data: dict[str, object], *, short: bool) -> str:
    time_ms = EPOCH_MS + rng.randrange(10**8)
    head: dict[str, object] = {"quote_currency": "KRW", "target_currency": "BTC"}
    head |= {"timestamp": time_ms, "id": f"{time_ms}{rng.randrange(1, 5):03d}", **data}
    frame = {"response_type": "DATA", "channel": channel, "data": head}
    text = json.dumps(frame, separators=(",", ":"))
    for long, key in COINONE_SHORT.items() if short else ():
        text = text.replace(f'"{long}":', f'"{key}":')
    return text


def coinone_book(rng: random.Random, *, short: bool = False) -> str:
    """Return a Coinone order book: 16 levels per side, the best ask last."""
    mid = 116_450_000 + rng.randrange(-200, 200) * 10_000
    sides = {
        name: [
            {"price": str(mid + sign * (i + (sign > 0)) * 10_000), "qty": f"{_size(rng):.8f}"}
            for i in range(16)
        ]
        for name, sign in (("asks", 1), ("bids", -1))
    }
    sides["asks"].reverse()
    return _coinone(rng, "ORDERBOOK", dict(sides), short=short)


def coinone_trade(rng: random.Random, *, short: bool = False) -> str:
    """Return a Coinone trade."""
    price = 116_450_000 + rng.randrange(-200, 200) * 10_000
    data = {"price": str(price), "qty": f"{_size(rng):.8f}"}
    return _coinone(rng, "TRADE", data | {"is_seller_maker": rng.random() < 0.5}, short=short)


def coinone_ticker(rng: random.Random, *, short: bool = False) -> str:
    """Return a Coinone ticker."""
    price = 116_450_000 + rng.randrange(-200, 200) * 10_000
    data = {
        "quote_volume": f"{rng.randrange(10**15) / 10**4:.4f}",
        "target_volume": f"{rng.randrange(10**11) / 10**8:.8f}",
        "high": str(price + 90_000),
        "low": str(price - 900_000),
        "first": str(price - 80_000),
        "last": str(price),
        "volume_power": "0",
        "ask_best_price": str(price + 10_000),
        "ask_best_qty": f"{_size(rng):.8f}",
        "bid_best_price": str(price),
        "bid_best_qty": f"{_size(rng):.8f}",
        "yesterday_high": str(price + 500_000),
    }
    return _coinone(rng, "TICKER", dict(data), short=short)


KINDS: dict[str, Callable[[random.Random], str]] = {
    "upbit-book": upbit_book,
    "upbit-book-simple": lambda rng: upbit_book(rng, simple=True),
    "bithumb-book": bithumb_book,
    "binance-depth20": binance_depth20,
    "binance-diff": binance_diff,
    "upbit-trade": upbit_trade,
    "upbit-trade-simple": lambda rng: upbit_trade(rng, simple=True),
    "bithumb-trade": bithumb_trade,
    "binance-trade": binance_trade,
    "upbit-ticker": upbit_ticker,
    "bithumb-ticker": bithumb_ticker,
    "binance-ticker": binance_ticker,
    "binance-top": binance_top,
    "coinone-book": coinone_book,
    "coinone-book-short": lambda rng: coinone_book(rng, short=True),
    "coinone-trade": coinone_trade,
    "coinone-trade-short": lambda rng: coinone_trade(rng, short=True),
    "coinone-ticker": coinone_ticker,
    "coinone-ticker-short": lambda rng: coinone_ticker(rng, short=True),
}


# decimals of prices and sizes in SBE
POWERS = (-2, -8)


def _mantissa(text: str, power: int) -> int:
    return int(Decimal(text).scaleb(-power))


def as_sbe(frame: bytes) -> bytes:
    """Return the SBE of a diff, a trade or the best prices in JSON."""
    data = orjson.loads(frame)["data"]
    time_us = data.get("E", EPOCH_MS) * 1000

    def both(price: str, size: str) -> tuple[int, int]:
        return _mantissa(price, POWERS[0]), _mantissa(size, POWERS[1])

    if "t" in data:
        row = (data["t"], *both(data["p"], data["q"]), data["m"])
        return binance_sbe.encode_trades(time_us, time_us, POWERS, [row], data["s"])
    if "U" in data:
        sides = tuple([both(*level) for level in data[side]] for side in ("b", "a"))
        ids = data["U"], data["u"]
        return binance_sbe.encode_diff(time_us, ids, POWERS, (sides[0], sides[1]), data["s"])
    best = (*both(data["b"], data["B"]), *both(data["a"], data["A"]))
    return binance_sbe.encode_best(time_us, data["u"], POWERS, best, data["s"])


# kind -> the kind in JSON with the same content
BINARY_KINDS = {
    "binance-sbe-diff": "binance-diff",
    "binance-sbe-trade": "binance-trade",
    "binance-sbe-top": "binance-top",
}


def kinds_of(exchange: str) -> list[str]:
    """Return the kinds of an exchange; binance-sbe: Binance's binary ones."""
    found = BINARY_KINDS if exchange == "binance-sbe" else KINDS
    return [kind for kind in found if kind.startswith(exchange)]


def made(kind: str, rng: random.Random) -> bytes:
    """Return one frame of a kind."""
    if kind in BINARY_KINDS:
        return as_sbe(KINDS[BINARY_KINDS[kind]](rng).encode())
    return KINDS[kind](rng).encode()


def frames(kind: str, count: int = COUNT) -> list[bytes]:
    """Return `count` different frames of one kind: upbit-book, binance-diff, … (see KINDS).

    A binary kind has the content of its kind in JSON.
    """
    rng = random.Random(f"{BINARY_KINDS.get(kind, kind)} {SEED}")
    return [made(kind, rng) for _ in range(count)]


def each(call: Callable[[T], Any], batch: list[T]) -> Callable[[], None]:
    """Return one pass: the call, from Python, for each item."""

    def run() -> None:
        for one in batch:
            call(one)

    return run


def diffs(first: int = FIRST_ID) -> list[bytes]:
    """Return Binance depth updates whose ids follow each other; a book's sides never cross."""
    rng = random.Random(f"diffs {SEED}")
    made = []
    for _ in range(COUNT):
        text = binance_diff(rng, first, mid=86_700.0)
        first = int(text.split('"u":')[1].split(",")[0]) + 1
        made.append(text.encode())
    return made
