"""What Upbit and Bithumb share: the subscribe array, REST books and trades, errors, recordings."""

from __future__ import annotations

import contextlib
import re
import uuid
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple
from urllib.parse import quote, unquote

import orjson

from coinspace.errors import MarketError
from coinspace.exchanges.exchange import (
    DISORDER_NS,
    MICROSECONDS_FROM,
    MOST_ID,
    NOTHING,
    Heard,
    Label,
    Listing,
    Recording,
    Refusal,
    Request,
    RestBook,
    RestTrade,
    TradePage,
    Trial,
    chunks,
    epoch_ns,
    finite,
    number,
    plain,
    said,
    shaped,
    short_name,
)
from coinspace.exchanges.facts import Flag, Said, name_of, rows
from coinspace.exchanges.settings import ExchangeSettings
from coinspace.market import ASSETS, Market, market_of_dashed

MARKETS = [f"{base}/KRW" for base in (*ASSETS, "USDT")]

# lowest price of a tick, and the tick, in KRW; documented by Upbit since 2025-07-31, and the steps
# seen at Bithumb agree
TICKS = (
    (1_000_000, 1000.0),
    (500_000, 500.0),
    (100_000, 100.0),
    (50_000, 50.0),
    (10_000, 10.0),
    (5_000, 5.0),
    (100, 1.0),
    (10, 0.1),
    (1, 0.01),
    (0.1, 0.001),
    (0.01, 0.0001),
    (0.001, 0.00001),
    (0.0001, 0.000001),
    (0.00001, 0.0000001),
)
LEAST_TICK = 1e-8
# a level that neither exchange has
UNSUPPORTED_LEVEL = 7

BOOKS = "/v1/orderbook"
TICKERS = "/v1/ticker"
TRADES = "/v1/trades/ticks"
# trades per call at most
PAGE = 500
# documented: trades of a day up to this many days ago
DAYS = 7
DAY_NS = 86_400_000_000_000
# clocks of exchange and host may differ by this much
CLOCK_NS = 60_000_000_000
# parts of the names of refusals that pass by themselves
PASSING = ("too_many_request", "too many request", "teapot")


def milliseconds(timestamp: int) -> int:
    """Return a time in ms or µs as ms."""
    return timestamp // 1000 if timestamp >= MICROSECONDS_FROM else timestamp


def market_of(symbol: str) -> Market | None:
    """Return the market of a symbol such as KRW-BTC."""
    try:
        return market_of_dashed(symbol)
    except MarketError:
        return None


def subscribe_frame(parts: Sequence[dict[str, Any]], form: str) -> bytes:
    """Return the frame that subscribes to everything.

    Documented by Upbit, seen at Bithumb: a request replaces the request before on the same
    connection, with all its types and codes, so a second frame would end the markets of the first.
    """
    return orjson.dumps([{"ticket": str(uuid.uuid4())}, *parts, {"format": form}])


def tick_of(price: float) -> float:
    """Return the tick of a market in KRW at a price."""
    return next((tick for least, tick in TICKS if price >= least), LEAST_TICK)


def group_frame(settings: ExchangeSettings, symbol: str, level: float) -> bytes:
    """Return the frame that subscribes to the price groups of one symbol, and to nothing else."""
    spelled = int(level) if level == int(level) else level
    part = {"type": "orderbook", "codes": [symbol], "level": spelled}
    return subscribe_frame([part], settings.format)


def compare_requests(symbols: Sequence[str], per_call: int) -> list[Request]:
    """Request all books, `per_call` in one call."""
    return [
        Request("compare", f"{BOOKS}?markets={','.join(map(quote, names))}", "orderbook", 1, names)
        for names in chunks(symbols, per_call)
    ]


class Place(NamedTuple):
    """A page of trades.

    days_ago: days before the present one. cursor: id that the page begins at, 0 = none.
    until_ns: no trade of the page is newer, 0 = not known.
    """

    days_ago: int = 0
    cursor: int = 0
    until_ns: int = 0


NEWEST = Place()


def trades_request(symbol: str, days_key: str, place: Place = NEWEST) -> Request:
    """Request at most 500 trades of a day, the newest first.

    Args: days_key: name of the parameter `days ago`, which the exchanges spell differently.
    """
    path = f"{TRADES}?market={quote(symbol)}&count={PAGE}"
    if place.days_ago:
        path += f"&{days_key}={place.days_ago}"
    if place.cursor:
        path += f"&cursor={place.cursor}"
    return Request("trades", path, "trade", 1, (symbol,), place=place)


def older_trades_request(page: TradePage, days_key: str, zone_ns: int) -> Request | None:
    """Request the page after a page, None = there is none.

    Documented: `cursor` is the id of the last trade of the page before, and a request without a
    number of days has trades of the present day only. It is not known whether a page begins with
    the trade of its cursor or after it, whether it orders trades by id or by time, and whether a
    cursor leads into the day before. So pages overlap, and a page without a further trade leads to
    the day before. The number of days is counted up from page to page: a day that ends meanwhile
    is read twice, and none is left out.

    Args: zone_ns: the exchange's days begin this much before those of UTC.
    """
    place = page.request.place or NEWEST
    symbol = page.request.symbols[0]
    if page.fresh:
        until_ns = page.trades[0].exchange_ns + DISORDER_NS
        cursor = max(one.trade_id for one in page.trades if one.exchange_ns <= until_ns)
        return trades_request(symbol, days_key, Place(place.days_ago, cursor, until_ns))
    until_ns = page.oldest.exchange_ns + DISORDER_NS if page.oldest else 0
    last = page.oldest.trade_id if page.oldest and (page.trades or place.cursor) else 0
    if last not in (0, place.cursor):
        # the overlap was the whole page, or the day has become another one
        return trades_request(symbol, days_key, Place(place.days_ago, last, until_ns))
    day_ns = (page.wall_ns + zone_ns) // DAY_NS * DAY_NS - place.days_ago * DAY_NS - zone_ns
    if place.days_ago >= DAYS or page.from_ns >= day_ns + CLOCK_NS:
        return None
    return trades_request(symbol, days_key, Place(place.days_ago + 1, 0, until_ns))


def read_books(request: Request, payload: bytes) -> list[RestBook]:
    """Read `/v1/orderbook`. Padding (price or size 0) is left out."""
    books = []
    for entry in orjson.loads(payload):
        units = entry["orderbook_units"]
        sides = [
            [
                (finite(unit[f"{side}_price"]), finite(unit[f"{side}_size"]))
                for unit in units
                if unit[f"{side}_price"] > 0 and unit[f"{side}_size"] > 0
            ]
            for side in ("bid", "ask")
        ]
        books.append(
            RestBook(entry["market"], milliseconds(int(entry["timestamp"])), sides[0], sides[1])
        )
    return books


def read_trades(request: Request, payload: bytes, wall_ns: int = 0) -> list[RestTrade]:
    """Read `/v1/trades/ticks`, oldest first; trades of one time keep the exchange's order."""
    trades = [
        RestTrade(
            entry["market"],
            int(entry["sequential_id"]),
            epoch_ns(int(entry["timestamp"])),
            float(entry["trade_price"]),
            float(entry["trade_volume"]),
            entry["ask_bid"] == "ASK",
        )
        for entry in reversed(orjson.loads(payload))
    ]
    trades.sort(key=lambda trade: trade.exchange_ns)
    return trades


def read_markets(payload: bytes) -> list[Listing]:
    """Read `/v1/market/all`, which has only the markets that are offered now."""
    listings = []
    for entry in orjson.loads(payload):
        try:
            market = market_of_dashed(entry["market"])
        except MarketError:
            continue
        warning = entry.get("market_warning") or (
            "WARNING" if entry.get("market_event", {}).get("warning") else "NONE"
        )
        listings.append(
            Listing(entry["market"], market, True, "" if warning == "NONE" else plain(str(warning)))
        )
    return listings


def read_market_facts(payload: bytes, flags: Callable[[Any], list[Flag]]) -> Said:
    """Read the warnings in `/v1/market/all`, which has only the markets that are offered now."""
    found, unread = rows(orjson.loads(payload), lambda row: name_of(row["market"]), flags)
    return Said(
        trading=dict.fromkeys(found, ("open", "")),
        flags={symbol: [one for part in parts for one in part] for symbol, parts in found.items()},
        unread=unread,
    )


def refusal_of_frame(detail: dict[str, Any]) -> Refusal:
    """Return the refusal of an error frame.

    Seen at both exchanges: close 1000 follows an error frame. Errors other than rate limits would
    come again on a new connection, so they are fatal.
    """
    error = detail.get("error", detail)
    if not isinstance(error, dict):
        error = {"name": error}
    text = plain(f"{said(error.get('name'))}: {said(error.get('message'))}")
    return Refusal(text, fatal=not any(word in text.lower() for word in PASSING))


def refusal_of_answer(status: int, payload: bytes) -> Refusal | None:
    """Return the refusal of a REST answer, None = the answer is good.

    Seen at Bithumb: errors have status 200, so the body decides too.
    """
    error: Any = None
    if payload[:20].lstrip()[:1] == b"{":
        try:
            error = orjson.loads(payload).get("error")
        except orjson.JSONDecodeError:
            error = {"name": "body is not JSON", "message": payload[:80].decode(errors="replace")}
    if status == 200 and error is None:
        return None
    text = f"HTTP {status}"
    if isinstance(error, dict):
        text += f" {said(error.get('name'))}: {said(error.get('message'))}"
    text = plain(text)
    passing = status in (418, 429) or status >= 500 or any(w in text.lower() for w in PASSING)
    return Refusal(text, fatal=not passing)


# recordings

_TYPE = re.compile(rb'"(?:ty|type)"\s*:\s*"([^"]*)"')
_CODE = re.compile(rb'"(?:cd|code)"\s*:\s*"([^"]*)"')
_LEVEL = re.compile(rb'"(?:lv|level)"\s*:\s*([0-9.eE+-]{1,24})')
BOOK = "orderbook"
# base -> Korean and English name in the list of markets
NAMES = {
    "BTC": ("비트코인", "Bitcoin"),
    "ETH": ("이더리움", "Ethereum"),
    "XRP": ("리플", "XRP"),
    "SOL": ("솔라나", "Solana"),
    "USDT": ("테더", "Tether"),
}
# key of a short frame -> key of REST
LONG = {
    "cd": "market",
    "code": "market",
    "tms": "timestamp",
    "tas": "total_ask_size",
    "tbs": "total_bid_size",
    "obu": "orderbook_units",
    "ap": "ask_price",
    "bp": "bid_price",
    "as": "ask_size",
    "bs": "bid_size",
    "lv": "level",
    "tp": "trade_price",
    "tv": "trade_volume",
    "ab": "ask_bid",
    "ttms": "trade_timestamp",
    "sid": "sequential_id",
    "pcp": "prev_closing_price",
    "cp": "change_price",
    "op": "opening_price",
    "hp": "high_price",
    "lp": "low_price",
    "atp": "acc_trade_price",
    "atv": "acc_trade_volume",
    "atp24h": "acc_trade_price_24h",
    "atv24h": "acc_trade_volume_24h",
    "scp": "signed_change_price",
    "cr": "change_rate",
    "scr": "signed_change_rate",
    "td": "trade_date_utc",
    "ttm": "trade_time_utc",
    "c": "change",
}


def label(payload: bytes, single: float = 0.0) -> Label:
    """Return the label of a recorded frame; NOTHING for errors and status.

    A book of price groups has a kind of its own, such as orderbook.10000.

    Args: single: `level` of books whose levels are no groups.
    """
    kind, code = _TYPE.search(payload), _CODE.search(payload)
    if kind is None or code is None:
        return NOTHING
    name = short_name(kind[1])
    if name == BOOK:
        level = _LEVEL.search(payload)
        with contextlib.suppress(ValueError):
            if level is not None and float(level[1]) > single:
                name = grouped_kind(float(level[1]))
    return Label((name,), short_name(code[1]), payload[:1] == b"[")


def grouped_kind(level: float) -> str:
    """Return the kind of a book of price groups."""
    return f"{BOOK}.{level:.15g}"


def request_of(path: str) -> Request | None:
    """Return the request that a recorded answer belongs to."""
    if not path.startswith(f"{BOOKS}?markets="):
        return None
    symbols = unquote(path.partition("markets=")[2].split("&")[0]).split(",")
    return Request("compare", path, "orderbook", 0, tuple(symbols))


def ids_of(what: Label, payload: bytes) -> tuple[bytes, bytes] | None:
    """Return None: books have no ids, and ids of trades have no order."""
    return None


def recorded_book() -> None:
    """Return None: each frame is a whole book."""


class Rules(NamedTuple):
    """What differs between the exchanges' answers.

    details: what the list of markets adds to each market when it is asked for details. days_key:
    parameter `days ago`. zone_ns: days begin this much before those of UTC. own_ids: whether trades
    have other ids than in the stream.
    """

    details: dict[str, Any]
    days_key: str
    zone_ns: int = 0
    own_ids: bool = False


def answer(
    recording: Recording, path: str, query: Mapping[str, str], wall_ns: int, rules: Rules
) -> tuple[int, Any]:
    """Answer a REST request from a recording."""
    if path == "/v1/market/all":
        detailed = query.get("is_details", query.get("isDetails")) == "true"
        return 200, market_list(recording.symbols, rules.details if detailed else {})
    if path not in (BOOKS, TICKERS, TRADES):
        return _refused(404, "not_found", "no Route matched with those values")
    codes = [one for one in query.get("markets", query.get("market", "")).upper().split(",") if one]
    if not codes:
        text = "Missing request parameter error. Check the required parameters!"
        return _refused(400, 400, text)
    if any(code not in recording.symbols for code in codes):
        return _refused(404, 404, "Code not found")
    if path == TRADES:
        return 200, trade_list(recording.trades(codes[0]), query, wall_ns, rules)
    kind = "orderbook" if path == BOOKS else "ticker"
    frames = (recording.last(kind, code) for code in codes)
    rows = shaped((frame for frame in frames if frame is not None), rest_row)
    if path == BOOKS and "count" in query:
        for row in rows:
            units = row.get("orderbook_units") or []
            row["orderbook_units"] = units[: number(query["count"], 30, 30)]
    return 200, rows


def instruments(recording: Recording, markets: str) -> tuple[int, Any]:
    """Answer a request for the levels of price groups: those that are recorded."""
    codes = [one for one in markets.upper().split(",") if one]
    if not codes or any(code not in recording.symbols for code in codes):
        return _refused(404, 404, "Code not found")
    return 200, [_instrument(recording, code) for code in codes]


def _instrument(recording: Recording, code: str) -> dict[str, Any]:
    levels = (float(f"1e{power}") for power in range(-8, 9))
    found = [level for level in levels if recording.last(grouped_kind(level), code) is not None]
    return {
        "market": code,
        "quote_currency": code.partition("-")[0],
        "supported_levels": ["0", *(f"{level:.15g}" for level in found)],
    }


def trade_list(
    frames: Iterable[bytes], query: Mapping[str, str], wall_ns: int, rules: Rules
) -> list[dict[str, Any]]:
    """Return recorded trades of one day in the form of REST, the highest ids first."""
    rows = shaped(frames, rest_row)
    if rules.own_ids:
        number_trades(rows)
    days_ago = number(query.get(rules.days_key), 0, DAYS)
    day = (wall_ns + rules.zone_ns) // DAY_NS - days_ago
    before = number(query.get("cursor"), MOST_ID, MOST_ID)
    until = query.get("to", "").replace(":", "") or "235959"
    found = []
    for row in rows:
        there, ns = divmod(int(row.get("timestamp", 0)) * 1_000_000 + rules.zone_ns, DAY_NS)
        seconds = ns // 1_000_000_000
        clock = f"{seconds // 3600:02}{seconds // 60 % 60:02}{seconds % 60:02}"
        if there == day and clock <= until and int(row.get("sequential_id", 0)) < before:
            found.append(row)
    found.sort(key=lambda row: int(row["sequential_id"]), reverse=True)
    return found[: number(query.get("count"), 1, PAGE)]


def number_trades(rows: list[dict[str, Any]]) -> None:
    """Give trades the ids of REST: their ms and a counter."""
    ms = count = 0
    for row in rows:
        count = count + 1 if row["timestamp"] == ms else 0
        ms = row["timestamp"]
        row["sequential_id"] = ms * 10_000 + count


def _refused(status: int, name: str | int, text: str) -> tuple[int, Any]:
    return status, {"error": {"name": name, "message": text}}


def market_list(codes: Iterable[str], details: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the list of markets of a recording."""
    rows = []
    for code in sorted(codes):
        base = code.partition("-")[2]
        korean, english = NAMES.get(base, (base, base))
        rows.append({"market": code, "korean_name": korean, "english_name": english, **details})
    return rows


def rest_row(payload: bytes) -> dict[str, Any]:
    """Return a recorded frame in the form of REST: long keys, `market` instead of `code`."""
    frame = orjson.loads(payload)
    frame = frame[0] if isinstance(frame, list) else frame
    row = {LONG.get(key, key): value for key, value in frame.items() if key not in ("ty", "type")}
    units = row.get("orderbook_units")
    if units:
        row["orderbook_units"] = [{LONG.get(k, k): v for k, v in unit.items()} for unit in units]
    if "trade_timestamp" in row and "sequential_id" in row:
        row["timestamp"] = row["trade_timestamp"]
    elif units:
        # a streamed book of Bithumb has µs, REST has ms
        row["timestamp"] = milliseconds(row["timestamp"])
    return row


# `probe`


def unknown_code(symbol: str) -> str:
    """Return a code of the same quote that does not exist."""
    return f"{symbol.partition('-')[0]}-NOSUCH"


def bad_request(symbol: str) -> tuple[str, Request]:
    """Return a request with one code that does not exist."""
    request = compare_requests([symbol, unknown_code(symbol)], 2)[0]
    return "one bad code fails a whole REST call", request


def trials(
    settings: ExchangeSettings, symbol: str, *, group_level: float, closes: bool
) -> list[Trial]:
    """Return the trials of `probe`.

    They are a request without a ticket, two subscriptions in a row, and price groups.

    Args: group_level, closes: see `group_trial`.
    """

    def closed(heard: Heard) -> tuple[bool, bool]:
        seen = bool(heard.controls or heard.close)
        return seen, bool(heard.controls) and heard.close.startswith("1000")

    def replaced(heard: Heard) -> tuple[bool, bool]:
        return heard.before > 0, not heard.after

    def silent(heard: Heard) -> tuple[bool, bool]:
        return heard.before > 0, not heard.controls and not heard.close

    url = settings.websocket
    bad = b'[{"type":"orderbook","codes":["KRW-BTC"]}]'
    found = [
        Trial(url, (bad,), {"a bad subscription gives an error frame, then close 1000": closed})
    ]
    if symbol:
        frames = tuple(
            subscribe_frame([{"type": "orderbook", "codes": [code]}], settings.format)
            for code in (symbol, unknown_code(symbol))
        )
        facts = {
            "a second subscription replaces the first": replaced,
            "an unknown code is silent": silent,
        }
        found += [
            Trial(url, frames, facts),
            group_trial(settings, group_level, closes=closes),
        ]
    return found


def group_trial(settings: ExchangeSettings, level: float, *, closes: bool) -> Trial:
    """Return the trial of price groups of KRW-BTC: a level that is sent, then an unsupported one.

    Args: closes: the unsupported one closes the connection; else it is silent.
    """

    def sent(heard: Heard) -> tuple[bool, bool]:
        return True, heard.before > 0

    def refused(heard: Heard) -> tuple[bool, bool]:
        ended = heard.close.startswith("1000") and bool(heard.controls)
        return True, ended if closes else not (heard.after or heard.controls or heard.close)

    frames = tuple(group_frame(settings, "KRW-BTC", one) for one in (level, UNSUPPORTED_LEVEL))
    end = "closes the connection" if closes else "is silent"
    facts = {
        f"price groups of level {level:g} are sent": sent,
        f"an unsupported level {end}": refused,
    }
    return Trial(settings.websocket, frames, facts)
