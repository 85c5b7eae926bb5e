"""Simulated sources of USD/KRW, with everything that a source may answer instead of a quotation.

    http://127.0.0.1:PORT/rates/SOURCE/…    the paths below SOURCE are the source's own

All sources quote one rate, which changes with each round of 10 s. Faults are named in `FORMS`.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import orjson

from coinspace.clock import SECOND_NS, Clock, now_ns
from coinspace.simulator.answer import Answer, answer

# in order of trust
SIMULATED_SOURCES = ("dunamu", "naver", "yahoo", "frankfurter")
KST = timezone(timedelta(hours=9))
# a premium of USDT of about 1 % against the simulated USDT books
USD_KRW = 1330.0
ROUND_S = 10
# bytes of a huge answer
HUGE = 4 << 20
HANG_S = 3600.0


def _rounded(value: float) -> float:
    return round(value, 2)


class SimulatedRates:
    """Answers requests to the sources. Attributes: factor (of the quoted rate)."""

    def __init__(self, clock: Clock = now_ns) -> None:
        self.factor = 1.0
        self._clock = clock

    def quote(self) -> tuple[float, datetime, int]:
        """Return the rate, the time and the number of the present round."""
        now = datetime.fromtimestamp(self._clock() // SECOND_NS, KST)
        seconds = now.hour * 3600 + now.minute * 60 + now.second
        number = seconds // ROUND_S
        at = now - timedelta(seconds=seconds % ROUND_S)
        # 1,328.5 to 1,331.5, the same at each start
        return _rounded((USD_KRW + 0.5 * (number * 7919 % 7 - 3)) * self.factor), at, number + 1

    async def get(self, source: str, form: str = "") -> Answer:
        """Answer a request. Args: form: the fault, "" = none."""
        if source not in SIMULATED_SOURCES:
            return answer({"error": "no such source"}, 404)
        rate, at, number = self.quote()
        if form == "hang":
            await asyncio.sleep(HANG_S)
        if form == "yesterday":
            at -= timedelta(days=1)
        elif form in _FACTORS:
            rate = _rounded(rate * _FACTORS[form])
        whole = WHOLE.get(form)
        if whole is not None:
            return whole()
        body: dict[str, Callable[[float, datetime, int], Any]] = {
            "dunamu": _dunamu,
            "naver": _naver,
            "yahoo": _yahoo,
            "frankfurter": _frankfurter,
        }
        return _altered(answer(body[source](rate, at, number)), form)


def _dunamu(rate: float, at: datetime, number: int) -> Any:
    return [
        {
            "code": "FRX.KRWUSD",
            "currencyCode": "USD",
            "country": "미국",
            "name": "미국 (USD/KRW)",
            "date": f"{at:%Y-%m-%d}",
            "time": f"{at:%H:%M:%S}",
            "recurrenceCount": number,
            "basePrice": rate,
            "currencyUnit": 1,
            "provider": "하나은행",
            "timestamp": int(at.timestamp() * 1000) + 5000,
        }
    ]


def _naver(rate: float, at: datetime, number: int) -> Any:
    found = {"reutersCode": "FX_USDKRW", "closePrice": f"{rate:,.2f}"}
    return {"isSuccess": True, "result": {**found, "localTradedAt": at.isoformat()}}


def _yahoo(rate: float, at: datetime, number: int) -> Any:
    meta = {
        "currency": "KRW",
        "symbol": "KRW=X",
        "regularMarketTime": int(at.timestamp()),
        "regularMarketPrice": rate,
    }
    return {"chart": {"result": [{"meta": meta}], "error": None}}


def _frankfurter(rate: float, at: datetime, number: int) -> Any:
    day = at.astimezone(UTC).date() - timedelta(days=1)
    day -= timedelta(days=max(0, day.weekday() - 4))
    return {"amount": 1.0, "base": "USD", "date": day.isoformat(), "rates": {"KRW": rate}}


# the rate in an answer
_RATE = re.compile(
    rb'("basePrice":|"closePrice":|"regularMarketPrice":|"KRW":)(?:"[0-9.,]+"|[0-9.]+)'
)
_FACTORS = {"yen": 100.0, "jump": 1.05, "drift": 1.008}
# form -> the text in the place of the rate
_TEXTS = {
    "comma": b'"1,330.50"',
    "text": b'"1,3x3.50"',
    "nan": b"NaN",
    "infinite": b"1e308",
    "negative": b"-1330.5",
    "zero": b"0",
    "null": b"null",
    "true": b"true",
}


def _altered(found: Answer, form: str) -> Answer:
    if form in _TEXTS:
        body = _RATE.sub(lambda one: one[1] + _TEXTS[form], found.body)
    elif form == "missing":
        body = _RATE.sub(b'"other":1', found.body)
    elif form == "truncated":
        body = found.body[: len(found.body) // 2]
    else:
        return found
    return Answer(found.status, body, found.headers)


# form -> an answer that has nothing of what was asked for
WHOLE: dict[str, Callable[[], Answer]] = {
    "html": lambda: Answer(
        200, b"<html><body>maintenance</body></html>", {"Content-Type": "text/html"}
    ),
    "empty": lambda: answer([]),
    "nothing": lambda: answer(b""),
    "object": lambda: answer({}),
    "redirect": lambda: Answer(302, b"", {"Location": "http://127.0.0.1:9/"}),
    "429": lambda: answer({}, 429, {"Retry-After": "1"}),
    "huge": lambda: answer(b"[" + b" " * HUGE + b"]"),
    "500": lambda: answer(orjson.dumps({"error": "internal"}), 500),
}
# everything that the fault `rate` can make of an answer
FORMS = frozenset((*_FACTORS, *_TEXTS, *WHOLE, "missing", "truncated", "yesterday", "hang"))
