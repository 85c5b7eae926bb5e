"""USD/KRW, the rate of the premium against USD: quotations of several sources in, one rate out.

A quotation is a rate and the time that its source gives for it. A live source quotes all the time,
a daily one once a bank day. The rate is the quotation of the first source, in the configured order,
that is young enough and that no other source contradicts. The rate is never derived from coin or
USDT prices: the premium would then be zero by construction.

    status       rate  meaning
    ok           yes   a live quotation
    closed       yes   the last one before the market closed, or before its first one of a session
    late         yes   a live quotation that is older than usual, or whose source does not answer
    daily        yes   of a daily source, no live source is usable
    held         yes   the last rate: the new quotations are not confirmed
    fixed        yes   a constant of the configuration or of a line of snapshots
    unconfirmed  no    quotations jump or differ, and the last rate is too old to be kept
    stale        no    all quotations are too old
    none         no    no quotation has arrived
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from datetime import date
from typing import Any

import msgspec
from msgspec import Struct

from coinspace._ext.message import Message
from coinspace.clock import DAY_NS, HOUR_NS, MINUTE_NS
from coinspace.errors import MessageError

USD_KRW = "USD/KRW"
# a rate outside is another currency, another unit (100 yen) or nonsense
PLAUSIBLE = (300.0, 6000.0)
# a source's time may be ahead of this host's clock
AHEAD_NS = 2 * MINUTE_NS
# a jump from the last rate, and a difference between two sources, that need a confirmation
JUMP = 0.03
DIFFERENCE = 0.005
# without a last rate, a live source must agree with another one
FIRST_DIFFERENCE = 0.01
# how long the last rate is kept while quotations are not confirmed
HOLD_NS = 30 * MINUTE_NS
# a live source without an answer for longer is late
UNHEARD_NS = 2 * MINUTE_NS
# (late, unusable): age of a live quotation within the session, and within the banks' hours
SESSION_AGES = (30 * MINUTE_NS, 3 * HOUR_NS)
BANK_AGES = (5 * MINUTE_NS, 30 * MINUTE_NS)
# a long weekend; a daily rate bridges longer holidays
CLOSED_AGE_NS = 100 * HOUR_NS
DAILY_AGE_NS = 10 * DAY_NS

OK, CLOSED, LATE, DAILY = "ok", "closed", "late", "daily"
HELD, FIXED, UNCONFIRMED, STALE, NONE = "held", "fixed", "unconfirmed", "stale", "none"
# the better status first
_RANKS = {OK: 0, CLOSED: 1, LATE: 2, DAILY: 3}
# Seoul's day begins this long before that of UTC; a session begins at 06:00, banks open at 09:00
_KST_NS = 9 * HOUR_NS
_OPEN_NS, _BANK_OPEN_NS, _BANK_CLOSE_NS = 6 * HOUR_NS, 9 * HOUR_NS, 18 * HOUR_NS
_EPOCH = date(1970, 1, 1).toordinal()
# (month, day) on which the market is closed each year; others move with the moon
_CLOSED_DATES = frozenset(
    ((1, 1), (3, 1), (5, 1), (5, 5), (6, 6), (8, 15), (10, 3), (10, 9), (12, 25), (12, 31))
)
# a session of several days began at most this many days ago
_LONGEST_SESSION = 7


class Quotation(Struct, gc=False):
    """What a source said: KRW per USD, at its own time.

    Attributes:
        received_ns: when the source said so last. daily: of a source that quotes once a day.
        round: the bank's number of this quotation on its day, 0 = none.
    """

    source: str
    rate: float
    observed_ns: int
    received_ns: int
    daily: bool = False
    round: int = 0


class ReferenceFacts(Struct, gc=False, frozen=True):
    """The rate at a tick; see the module for its status.

    Attributes:
        source, observed_ns: of the quotation that gave the rate, None and 0 without a rate.
        heard_ns: when the newest applied quotation was received, 0 = none.
    """

    rate: float | None = None
    status: str = NONE
    source: str | None = None
    observed_ns: int = 0
    heard_ns: int = 0


def encode_quotation(found: Quotation) -> bytes:
    """Return the payload of a quotation's message."""
    return msgspec.json.encode(
        {"rate": found.rate, "observed_ns": found.observed_ns, "daily": found.daily}
    )


def decode_quotation(message: Message) -> Quotation:
    """Read a quotation's message. Raises: MessageError."""
    try:
        facts = message.json()
        found = Quotation(
            message.exchange,
            float(facts["rate"]),
            int(facts["observed_ns"]),
            message.received_ns,
            bool(facts["daily"]),
            message.id,
        )
        if not PLAUSIBLE[0] <= found.rate <= PLAUSIBLE[1]:
            raise ValueError(f"expected a rate of {PLAUSIBLE[0]} to {PLAUSIBLE[1]}")
        if not 0 < found.observed_ns < 1 << 63 or message.market != USD_KRW:
            raise ValueError(f"expected {USD_KRW} and a time, was {message.market}")
    except (ValueError, KeyError, TypeError, OverflowError, AttributeError) as error:
        raise MessageError(f"quotation of {message.topic!r}: {error}") from None
    return found


class Calendar:
    """When the onshore market trades: Monday 06:00 to Saturday 06:00 in Seoul, except holidays.

    Args: holidays: further days without a session, as YYYY-MM-DD.
    """

    def __init__(self, holidays: Iterable[str] = ()) -> None:
        self._holidays = frozenset(date.fromisoformat(one).toordinal() - _EPOCH for one in holidays)
        # a number of hours since 1970 and its openings
        self._hour: tuple[int, tuple[int | None, int | None]] = (-1, (None, None))

    def openings(self, ts_ns: int) -> tuple[int | None, int | None]:
        """Return the start of the session and of the banks' hours of an instant, None = closed."""
        # both begin and end on the hour
        hour = ts_ns // HOUR_NS
        if hour != self._hour[0]:
            self._hour = (hour, (self._session_ns(ts_ns), self._bank_ns(ts_ns)))
        return self._hour[1]

    def _works(self, day: int) -> bool:
        # 1970-01-01 was a Thursday
        if (day + 3) % 7 >= 5 or day in self._holidays:
            return False
        on = date.fromordinal(day + _EPOCH)
        return (on.month, on.day) not in _CLOSED_DATES

    def _session_ns(self, ts_ns: int) -> int | None:
        day = (ts_ns + _KST_NS - _OPEN_NS) // DAY_NS
        if not self._works(day):
            return None
        for _ in range(_LONGEST_SESSION):
            if not self._works(day - 1):
                break
            day -= 1
        return day * DAY_NS + _OPEN_NS - _KST_NS

    def _bank_ns(self, ts_ns: int) -> int | None:
        day, within_ns = divmod(ts_ns + _KST_NS, DAY_NS)
        if not _BANK_OPEN_NS <= within_ns < _BANK_CLOSE_NS or not self._works(day):
            return None
        return day * DAY_NS + _BANK_OPEN_NS - _KST_NS


class Reference:
    """The rate: takes quotations, and gives the rate of a tick from them and from the last rate.

    Args: sources: in order of trust. holidays: as for Calendar.
    """

    def __init__(self, sources: Sequence[str], holidays: Collection[str] = ()) -> None:
        self._order = {name: number for number, name in enumerate(sources)}
        self._calendar = Calendar(holidays)
        self.quotations: dict[str, Quotation] = {}
        self.heard_ns = 0
        # when the last rate was accepted, and its facts
        self._last: tuple[int, ReferenceFacts] | None = None

    def take(self, found: Quotation) -> bool:
        """Take a quotation. Returns: False for one that is older than the source's last one."""
        if found.source not in self._order:
            return False
        self.heard_ns = max(self.heard_ns, found.received_ns)
        known = self.quotations.get(found.source)
        if known is not None and found.observed_ns < known.observed_ns:
            return False
        self.quotations[found.source] = found
        return True

    def at(self, ts_ns: int) -> ReferenceFacts:
        """Return the rate at a tick; ticks must not go back."""
        usable = self.usable(ts_ns)
        last = self._recent(ts_ns)
        for daily in (False, True):
            group = [pair for pair in usable if pair[1].daily == daily]
            for status, one in group:
                if self._accepts(status, one, usable, last):
                    found = ReferenceFacts(
                        one.rate, status, one.source, one.observed_ns, self.heard_ns
                    )
                    self._last = (ts_ns, found)
                    return found
            if last is not None and group:
                return msgspec.structs.replace(last, status=HELD, heard_ns=self.heard_ns)
        missing = UNCONFIRMED if usable else STALE if self.quotations else NONE
        return ReferenceFacts(status=missing, heard_ns=self.heard_ns)

    def usable(self, ts_ns: int) -> list[tuple[str, Quotation]]:
        """Return (status, quotation) of the sources that are young enough, the best one first."""
        found = [
            (status, one)
            for one in self.quotations.values()
            if (status := self._status(one, ts_ns)) is not None
        ]
        found.sort(key=lambda one: (_RANKS[one[0]], self._order[one[1].source]))
        return found

    def _status(self, one: Quotation, ts_ns: int) -> str | None:
        age_ns = ts_ns - one.observed_ns
        if age_ns < -AHEAD_NS:
            return None
        if one.daily:
            return DAILY if age_ns <= DAILY_AGE_NS else None
        if age_ns > CLOSED_AGE_NS:
            return None
        session_ns, bank_ns = self._calendar.openings(ts_ns)
        # before the first quotation of a session, the last one of the session before is used
        status = OK if session_ns is not None and one.observed_ns >= session_ns else CLOSED
        if ts_ns - one.received_ns > UNHEARD_NS:
            status = LATE
        spans = (session_ns, SESSION_AGES), (bank_ns, BANK_AGES)
        for begin_ns, (late_ns, most_ns) in spans:
            if begin_ns is None:
                continue
            # a quotation cannot be newer than the opening
            within_ns = ts_ns - max(one.observed_ns, begin_ns)
            if within_ns > most_ns:
                return None
            if within_ns > late_ns:
                status = LATE
        return status

    def _accepts(
        self,
        status: str,
        one: Quotation,
        usable: list[tuple[str, Quotation]],
        last: ReferenceFacts | None,
    ) -> bool:
        others = [(rank, other) for rank, other in usable if other.source != one.source]
        if any(_near(one.rate, other.rate, DIFFERENCE) for _, other in others):
            return True
        if last is None or last.rate is None:
            # a daily rate is official: it needs no second source
            near = any(_near(one.rate, other.rate, FIRST_DIFFERENCE) for _, other in others)
            return near or one.daily or len(self._order) == 1
        contradicted = any(
            not other.daily and _RANKS[rank] <= _RANKS[status] for rank, other in others
        )
        return not contradicted and _near(one.rate, last.rate, JUMP)

    def _recent(self, ts_ns: int) -> ReferenceFacts | None:
        if self._last is None or not 0 <= ts_ns - self._last[0] <= HOLD_NS:
            return None
        return self._last[1]

    def forget(self) -> None:
        """Forget everything: the clock was set, so all times are invalid."""
        self.quotations.clear()
        self._last, self.heard_ns = None, 0

    def state(self) -> dict[str, Any]:
        """Return what a later process goes on from."""
        return {
            "last": msgspec.to_builtins(self._last),
            "quotations": [msgspec.to_builtins(one) for one in self.quotations.values()],
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on from the state of an earlier process. Raises: ValueError for a damaged one."""
        last = msgspec.convert(state.get("last"), tuple[int, ReferenceFacts] | None)
        found = msgspec.convert(state.get("quotations") or [], list[Quotation])
        self.forget()
        for one in found:
            self.take(one)
        self._last = last


def _near(one: float, other: float, limit: float) -> bool:
    return abs(one / other - 1.0) <= limit


def fixed(rate: float, source: str, heard_ns: int = 0) -> ReferenceFacts:
    """Return the facts of a constant rate."""
    return ReferenceFacts(rate, FIXED, source, heard_ns=heard_ns)
