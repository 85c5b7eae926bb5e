"""The premium's range of the last 24 h: a ring of minutes, live and stored."""

from __future__ import annotations

from typing import Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from coinspace.clock import MINUTE_NS
from coinspace.endpoint.live import premium_day
from coinspace.endpoint.live.premium_day import MINUTES, Minutes, PremiumDays
from coinspace.endpoint.live.state import Live
from coinspace.errors import DatabaseUnavailable
from coinspace.storage.read import history

NOW = 29_460_000


def test_range_and_place_of_the_present_premium() -> None:
    minutes = Minutes()
    assert minutes.day(NOW, 0.01) is None
    for back, premium in enumerate((0.01, -0.02, 0.03, 0.02)):
        minutes.add(NOW - back, premium)
    found = minutes.day(NOW, 0.01)
    assert found is not None
    assert (found.low, found.high, found.minutes) == ("-0.02", "0.03", 4)
    assert found.percentile == "0.5"
    # a premium of this very minute can be beyond all
    above = minutes.day(NOW, 0.05)
    assert above is not None
    assert (above.high, above.percentile) == ("0.05", "1")


@given(
    st.lists(
        st.tuples(st.booleans(), st.integers(0, 3 * MINUTES), st.floats(-0.5, 0.5)), max_size=200
    ),
    st.integers(0, 3 * MINUTES),
)
def test_the_ring_is_the_last_day(given_rows: list[tuple[bool, int, float]], now: int) -> None:
    minutes = Minutes()
    known: dict[int, float] = {}
    for live, minute, premium in given_rows:
        newest = max((one for one in known if one % MINUTES == minute % MINUTES), default=-1)
        if minute > newest or (live and minute == newest):
            known[minute] = premium
        (minutes.add if live else minutes.fill)(minute, premium)
    # of minutes with the same place only the newest is kept
    kept = {minute % MINUTES: minute for minute in sorted(known)}
    inside = [known[one] for one in kept.values() if now - MINUTES < one <= now]
    found = minutes.day(now, 0.0)
    assert (found.minutes if found else 0) == len(inside)
    if found is not None:
        assert float(found.high or 0) == pytest.approx(max(*inside, 0.0), abs=1e-8)
        assert float(found.low or 0) == pytest.approx(min(*inside, 0.0), abs=1e-8)
        share = sum(one <= 0 for one in inside) / len(inside)
        assert float(found.percentile or 0) == pytest.approx(share, abs=1e-4)


async def test_stored_premiums_wait_for_the_database_and_leave_live_ones(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked: list[tuple[str, int, int]] = []

    async def candles(_: Any, asset: str, interval: str, start_ns: int, end_ns: int) -> Any:
        asked.append((asset, start_ns, end_ns))
        if len(asked) < 3:
            raise DatabaseUnavailable("not yet")
        rows = [(start_ns, 0.5), (end_ns - MINUTE_NS, 0.1), (end_ns - 2 * MINUTE_NS, None)]
        return [{"ns": ns, "premium": premium} for ns, premium in rows]

    monkeypatch.setattr(history, "candles", candles)
    monkeypatch.setattr(premium_day, "RETRY_S", 0)
    now_ns = NOW * MINUTE_NS + 7
    days = PremiumDays(Live(lambda: now_ns), ["BTC", "ETH"])
    days._assets["BTC"].add(NOW - 1, 0.2)
    await days.load(cast(Any, None))
    assert [asset for asset, _, _ in asked] == ["BTC", "BTC", "BTC", "ETH"]
    assert asked[0][1:] == ((NOW - MINUTES) * MINUTE_NS, NOW * MINUTE_NS)
    bitcoin, ether = (days.day(asset, NOW * 60_000, 0.15) for asset in ("BTC", "ETH"))
    assert bitcoin is not None
    assert ether is not None
    # the minute a day ago has just left the day
    assert (bitcoin.low, bitcoin.high, bitcoin.minutes) == ("0.15", "0.2", 1)
    assert (ether.low, ether.high, ether.minutes) == ("0.1", "0.15", 1)
    assert days.day("DOGE", NOW * 60_000, 0.1) is None
