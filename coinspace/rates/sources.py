"""What each source of USD/KRW speaks: the path of a request, and how its answer is read. No I/O.

dunamu       rounds of Hana Bank, about one a minute; unofficial
naver        the same rounds; unofficial
yahoo        an independent quote, about one a minute on five days; unofficial
eximbank     the official base rate of a bank day, from 11:00 KST on; needs a key
ecos         the same, by the Bank of Korea; needs a key
frankfurter  the reference rate of the European Central Bank, one a bank day; open
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta, timezone
from typing import Any

import orjson

from coinspace.clock import HOUR_NS, MILLISECOND_NS, SECOND_NS
from coinspace.errors import UNREADABLE
from coinspace.method.reference import AHEAD_NS, PLAUSIBLE, Quotation
from coinspace.text import printable

KST = timezone(timedelta(hours=9))
# a number with or without commas between thousands; nothing else is guessed
_TEXT = re.compile(r"(?:\d{1,3}(?:,\d{3})+|\d{1,9})(?:\.\d{1,9})?")
# Eximbank publishes a day's rate at 11:00 KST
_PUBLISHED_NS = 11 * HOUR_NS
# days that ECOS is asked for: longer than any row of holidays
_ECOS_DAYS = 14
# a day's round number fits
_MOST_ROUNDS = 1 << 31
SHOWN = 80


class RefusedError(Exception):
    """An answer is not a quotation. Attributes: reason (for counters), detail."""

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(f"{reason}: {detail}")
        self.reason = reason
        self.detail = detail


@dataclass(frozen=True, slots=True)
class Source:
    """One source.

    Attributes:
        path: (key, ns) -> path and query of a request. read: (answer, path) -> rate, the source's
            time in ns, the bank's round or 0.
        daily: it quotes once a bank day.
    """

    name: str
    path: Callable[[str, int], str]
    read: Callable[[Any, str], tuple[float, int, int]]
    daily: bool = False

    def quotation(self, payload: bytes, path: str, received_ns: int) -> Quotation:
        """Read an answer. Raises: RefusedError."""
        try:
            answer = orjson.loads(payload)
        except orjson.JSONDecodeError:
            head = payload[:SHOWN].decode("utf-8", "replace")
            raise RefusedError("not_json", f"expected JSON, was {printable(head)!r}") from None
        try:
            rate, observed_ns, number = self.read(answer, path)
        except UNREADABLE:
            head = payload[:SHOWN].decode("utf-8", "replace")
            raise RefusedError(
                "shape", f"expected the fields of a quotation, was {printable(head)!r}"
            ) from None
        low, high = PLAUSIBLE
        if not low <= rate <= high:
            raise RefusedError(
                "implausible", f"expected {low:g} to {high:g} KRW per USD, was {rate:g}"
            )
        if not 0 < observed_ns <= received_ns + AHEAD_NS:
            raise RefusedError(
                "future",
                "expected a time since 1970 and not ahead of this host's clock, was"
                f" {_shown(observed_ns)}: check the clock",
            )
        return Quotation(self.name, rate, observed_ns, received_ns, self.daily, number)


def _shown(ns: int) -> str:
    try:
        return f"{datetime.fromtimestamp(ns // SECOND_NS, UTC):%Y-%m-%d %H:%M:%S} UTC"
    except (ValueError, OverflowError, OSError):
        return f"{ns} ns"


def _number(value: Any) -> float:
    """Return a JSON number. Raises: RefusedError for a text, TypeError for others."""
    if isinstance(value, str):
        raise RefusedError("number", f"expected a number, was the text {printable(value, SHOWN)!r}")
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise TypeError
    return _finite(float(value))


def _text(value: Any) -> float:
    """Return the number in a text such as "1,478.50". Raises: RefusedError, TypeError."""
    if not isinstance(value, str):
        raise TypeError
    if not _TEXT.fullmatch(value):
        raise RefusedError(
            "number", f"expected a number such as 1,478.50, was {printable(value, SHOWN)!r}"
        )
    return _finite(float(value.replace(",", "")))


def _finite(value: float) -> float:
    if not math.isfinite(value):
        raise RefusedError("number", "expected a finite number")
    return value


def _unit(found: object, expected: object) -> None:
    if found != expected or isinstance(found, bool):
        raise RefusedError("unit", f"expected {expected!r}, was {printable(found, SHOWN)!r}")


def _ns(at: datetime) -> int:
    if at.tzinfo is None:
        raise ValueError
    return round(at.timestamp() * 1000) * MILLISECOND_NS


def _start_of(day: date, zone: timezone) -> int:
    return _ns(datetime.combine(day, time(), zone))


def _day(ns: int) -> date:
    return datetime.fromtimestamp(ns // SECOND_NS, KST).date()


def _dunamu(answer: Any, path: str) -> tuple[float, int, int]:
    if answer == [] or answer is None:
        raise RefusedError("empty", "expected a quotation, was none")
    if not isinstance(answer, list):
        raise TypeError
    rows = [one for one in answer if one["code"] == "FRX.KRWUSD"]
    if not rows:
        raise RefusedError("unit", "expected a row of FRX.KRWUSD, was none")
    one = rows[0]
    _unit(one["currencyCode"], "USD")
    # 100 for yen: the price would be of 100 units
    _unit(one["currencyUnit"], 1)
    day, at = date.fromisoformat(one["date"]), time.fromisoformat(one["time"])
    number = one.get("recurrenceCount") or 0
    if not isinstance(number, int) or not 0 <= number < _MOST_ROUNDS:
        raise TypeError
    return _number(one["basePrice"]), _ns(datetime.combine(day, at, KST)), number


def _naver(answer: Any, path: str) -> tuple[float, int, int]:
    one = answer["result"]
    if one == [] or one is None:
        raise RefusedError("empty", "expected a quotation, was none")
    _unit(one["reutersCode"], "FX_USDKRW")
    return _text(one["closePrice"]), _ns(datetime.fromisoformat(one["localTradedAt"])), 0


def _yahoo(answer: Any, path: str) -> tuple[float, int, int]:
    chart = answer["chart"]
    if chart.get("error"):
        raise RefusedError("no_data", printable(chart["error"], SHOWN))
    if not chart["result"]:
        raise RefusedError("empty", "expected a quotation, was none")
    one = chart["result"][0]["meta"]
    _unit(one["symbol"], "KRW=X")
    _unit(one["currency"], "KRW")
    seconds = one["regularMarketTime"]
    if isinstance(seconds, bool) or not isinstance(seconds, int):
        raise TypeError
    return _number(one["regularMarketPrice"]), seconds * SECOND_NS, 0


def _eximbank(answer: Any, path: str) -> tuple[float, int, int]:
    if not answer:
        raise RefusedError("empty", "expected a quotation, was none: a day without bank hours")
    if (code := answer[0]["result"]) != 1:
        meaning = {2: "wrong data code", 3: "wrong key", 4: "the day's requests are used up"}
        raise RefusedError("no_data", f"result {printable(code, SHOWN)}, {meaning.get(code, '')}")
    rows = [one for one in answer if one["cur_unit"] == "USD"]
    if not rows:
        raise RefusedError("unit", "expected a row of USD, was none")
    # the answer has no day: it is the one that was asked for
    asked = re.search(r"searchdate=(\d{8})", path)
    if asked is None:
        raise ValueError
    day = datetime.strptime(asked[1], "%Y%m%d").date()
    return _text(rows[0]["deal_bas_r"]), _start_of(day, KST), 0


def _ecos(answer: Any, path: str) -> tuple[float, int, int]:
    if "RESULT" in answer:
        raise RefusedError("no_data", printable(answer["RESULT"]["CODE"], SHOWN))
    row = max(answer["StatisticSearch"]["row"], key=lambda one: one["TIME"])
    _unit(row["STAT_CODE"], "731Y001")
    _unit(row["ITEM_CODE1"], "0000001")
    day = datetime.strptime(row["TIME"], "%Y%m%d").date()
    return _text(row["DATA_VALUE"]), _start_of(day, KST), 0


def _frankfurter(answer: Any, path: str) -> tuple[float, int, int]:
    _unit(answer["base"], "USD")
    _unit(answer["amount"], 1.0)
    return _number(answer["rates"]["KRW"]), _start_of(date.fromisoformat(answer["date"]), UTC), 0


def _eximbank_path(key: str, now_ns: int) -> str:
    day = _day(now_ns - _PUBLISHED_NS)
    # the last working day whose rate is published
    day -= timedelta(days=max(0, day.weekday() - 4))
    return f"/site/program/financial/exchangeJSON?authkey={key}&searchdate={day:%Y%m%d}&data=AP01"


def _ecos_path(key: str, now_ns: int) -> str:
    last = _day(now_ns)
    first = last - timedelta(days=_ECOS_DAYS)
    return (
        f"/api/StatisticSearch/{key}/json/kr/1/{_ECOS_DAYS + 1}/731Y001/D"
        f"/{first:%Y%m%d}/{last:%Y%m%d}/0000001"
    )


def _always(path: str) -> Callable[[str, int], str]:
    return lambda key, now_ns: path


SOURCES = {
    one.name: one
    for one in (
        Source("dunamu", _always("/v1/forex/recent?codes=FRX.KRWUSD"), _dunamu),
        Source(
            "naver",
            _always("/front-api/marketIndex/productDetail?category=exchange&reutersCode=FX_USDKRW"),
            _naver,
        ),
        Source("yahoo", _always("/v8/finance/chart/KRW=X?interval=1m&range=1d"), _yahoo),
        Source("eximbank", _eximbank_path, _eximbank, daily=True),
        Source("ecos", _ecos_path, _ecos, daily=True),
        Source("frankfurter", _always("/v1/latest?base=USD&symbols=KRW"), _frankfurter, daily=True),
    )
}
