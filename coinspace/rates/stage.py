"""The stage: answers of sources in, messages of quotations out. No socket and no clock."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

from coinspace._ext.message import RATE, REPEAT
from coinspace._ext.sink import Sink, Topic
from coinspace.bus.topics import build
from coinspace.config import RatesSettings
from coinspace.method.reference import (
    CLOSED,
    DAILY,
    HELD,
    LATE,
    OK,
    UNCONFIRMED,
    USD_KRW,
    Quotation,
    Reference,
    ReferenceFacts,
    encode_quotation,
)
from coinspace.rates.sources import SOURCES, RefusedError

# of a daily source: the day's quotation is not due yet, or there is none of a holiday
PATIENT = ("empty",)


class RateStage:
    """Reads answers, publishes quotations, and follows the rate that they give.

    A quotation that a source has given before is published as a repeat: it shows that the source
    still answers, and is not stored.

    Attributes:
        reference: the rate, as the aggregator computes it.
        refused: (source, reason) -> number of answers that were no quotation.
        failing: source -> why its last request gave no quotation.
    """

    def __init__(self, settings: RatesSettings, sink: Sink) -> None:
        self.sources = tuple(settings.sources)
        self.reference = Reference(settings.sources, settings.holidays)
        self.refused: Counter[tuple[str, str]] = Counter()
        self.answers: Counter[str] = Counter()
        self.failing: dict[str, str] = {}
        self.held = 0
        self._sink = sink
        self._topics: dict[str, Topic] = {
            name: sink.topic(build("rate", name, USD_KRW)) for name in self.sources
        }
        self._facts = ReferenceFacts()

    def on_answer(self, source: str, payload: bytes, path: str, received_ns: int) -> bool:
        """Take an answer. Returns: whether it was a quotation."""
        try:
            found = SOURCES[source].quotation(payload, path, received_ns)
            known = self.reference.quotations.get(source)
            repeat = known is not None and _said(known) == _said(found)
            self._in_order(known, found)
            self.reference.take(found)
        except RefusedError as error:
            self.on_refused(source, error.reason, error.detail)
            return False
        self.answers[source] += 1
        self.failing.pop(source, None)
        self._publish(found, repeat=repeat)
        return True

    def on_refused(self, source: str, reason: str, detail: str) -> None:
        """Note that a request gave no quotation."""
        self.refused[source, reason] += 1
        self.failing[source] = f"{reason}: {detail}"

    def _in_order(self, known: Quotation | None, found: Quotation) -> None:
        """Refuse a quotation from before the last one. Raises: RefusedError."""
        if known is None:
            return
        if found.observed_ns < known.observed_ns:
            raise RefusedError("older", "expected a time at or after that of the last quotation")
        same_time = found.observed_ns == known.observed_ns
        if same_time and found.round < known.round:
            raise RefusedError("round", f"expected round {known.round} or later, was {found.round}")

    def announce(self) -> None:
        """Publish the last quotations again, for subscribers that came later."""
        for one in self.reference.quotations.values():
            self._publish(one, repeat=True)

    def _publish(self, one: Quotation, *, repeat: bool) -> None:
        self._sink.publish(
            self._topics[one.source],
            RATE,
            encode_quotation(one),
            flags=REPEAT if repeat else 0,
            exchange_ns=one.observed_ns,
            received_ns=one.received_ns,
            id=one.round,
        )

    def look(self, now_ns: int) -> ReferenceFacts:
        """Compute the rate of an instant."""
        before, self._facts = self._facts, self.reference.at(now_ns)
        unconfirmed = (HELD, UNCONFIRMED)
        self.held += self._facts.status in unconfirmed and before.status not in unconfirmed
        return self._facts

    def problems(self) -> list[str]:
        """Return what is wrong with the rate and with its sources."""
        found = self._facts
        texts = []
        live = not all(SOURCES[one].daily for one in self.sources)
        if found.status not in (OK, CLOSED) and not (found.status == DAILY and not live):
            texts.append(f"USD/KRW is {found.status}{_MEANINGS.get(found.status, '')}")
        if found.status in (HELD, UNCONFIRMED):
            quoted = ", ".join(
                f"{one.source} {one.rate:g}" for one in self.reference.quotations.values()
            )
            texts.append(f"sources say {quoted}")
        for source in self.sources:
            text = self.failing.get(source)
            if text is None or (SOURCES[source].daily and text.startswith(PATIENT)):
                continue
            texts.append(f"{source} gives no quotation, {text}")
        return texts

    def counters(self, now_ns: int) -> Mapping[str, int | float]:
        found: dict[str, int | float] = {"rates_held": self.held}
        for name in self.sources:
            found[f'rate_answers{{source="{name}"}}'] = self.answers[name]
        for (name, reason), count in self.refused.items():
            found[f'rate_refused{{source="{name}",reason="{reason}"}}'] = count
        for one in self.reference.quotations.values():
            age_s = round((now_ns - one.observed_ns) / 1e9, 1)
            found[f'rate_quoted{{source="{one.source}"}}'] = one.rate
            found[f'rate_age_s{{source="{one.source}"}}'] = age_s
        if self._facts.rate is not None:
            found["usd_krw"] = self._facts.rate
        return found


_MEANINGS = {
    DAILY: ": no live source is usable",
    LATE: ": the quotation is older than usual, or its source does not answer",
    HELD: ": the last rate is kept, since the new one is not confirmed",
    UNCONFIRMED: ": no rate, since the sources jump or differ",
    "stale": ": no rate, since all quotations are too old",
    "none": ": no quotation has arrived",
}


def _said(one: Quotation) -> tuple[float, int, int]:
    return one.rate, one.observed_ns, one.round
