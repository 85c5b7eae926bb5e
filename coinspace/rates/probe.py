"""The facts about the sources of USD/KRW that the code relies on, checked with one request each."""

from __future__ import annotations

from typing import NamedTuple

from coinspace._ext.sink import ListSink
from coinspace.clock import HOUR_NS, SECOND_NS, now_ns
from coinspace.config import RatesSettings
from coinspace.method.reference import DIFFERENCE, Quotation
from coinspace.rates.poller import Poller
from coinspace.rates.sources import SOURCES
from coinspace.rates.stage import RateStage

# refusals that say nothing of what an answer contains
_NO_ANSWER = ("busy", "timeout", "unreachable", "status", "redirect", "oversized", "encoding")


class SourceFact(NamedTuple):
    """One fact of one source. verdict: pass, fail or unseen."""

    source: str
    name: str
    verdict: str
    detail: str


async def run_probe(settings: RatesSettings) -> list[SourceFact]:
    """Ask each configured source once."""
    stage = RateStage(settings, ListSink(1))
    poller = Poller(settings, stage)
    try:
        for source in stage.sources:
            await poller.ask(source)
        tags = {source for source in stage.sources if poller.has_tag(source)}
    finally:
        await poller.close()
    return [fact for source in stage.sources for fact in _facts(stage, source, tags)]


def _facts(stage: RateStage, source: str, tags: set[str]) -> list[SourceFact]:
    failing, one = stage.failing.get(source, ""), stage.reference.quotations.get(source)
    answered = not failing.startswith(_NO_ANSWER)
    readable = one is not None
    seen = answered or readable
    return [
        _fact(source, "answers without a redirect", answered, failing),
        _fact(source, "is a quotation of USD/KRW", readable if seen else None, failing),
        _fact(source, "has a time of its own", *_time(source, one)),
        _fact(source, "agrees with the others within 0.5 %", *_agrees(stage, one)),
        _fact(source, "has an ETag", (source in tags) or None, "" if seen else failing),
    ]


def _fact(source: str, name: str, good: bool | None, detail: str) -> SourceFact:
    verdict = "unseen" if good is None else "pass" if good else "fail"
    return SourceFact(source, name, verdict, detail)


def _time(source: str, one: Quotation | None) -> tuple[bool | None, str]:
    if one is None:
        return None, ""
    age_ns = now_ns() - one.observed_ns
    # a weekend and a holiday, or a row of holidays
    most_ns = 240 * HOUR_NS if SOURCES[source].daily else 100 * HOUR_NS
    return age_ns <= most_ns, f"{age_ns // SECOND_NS} s old, rate {one.rate:g}"


def _agrees(stage: RateStage, one: Quotation | None) -> tuple[bool | None, str]:
    others = [
        other
        for other in stage.reference.quotations.values()
        if one is not None and other.source != one.source and other.daily == one.daily
    ]
    if one is None or not others:
        return None, ""
    far = {other.source: one.rate / other.rate - 1.0 for other in others}
    text = ", ".join(f"{name} {100 * value:+.3f} %" for name, value in far.items())
    return min(map(abs, far.values())) <= DIFFERENCE, text
