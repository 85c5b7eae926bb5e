"""Aggregates of trades fill a hole: each id once, and never a size that single trades have."""

from __future__ import annotations

from decimal import Decimal

from hypothesis import assume, given
from hypothesis import strategies as st

from coinspace.collector.holes import TradeHole, by_number
from coinspace.exchanges.exchange import RestTrade

FIRST = 1000


@st.composite
def traded(draw: st.DrawFn) -> tuple[list[RestTrade], list[RestTrade]]:
    """Return single trades, and the aggregates that they make."""
    singles: list[RestTrade] = []
    aggregates = []
    for number, count in enumerate(draw(st.lists(st.integers(1, 6), min_size=1, max_size=12))):
        price, sell = 100.0 + number, draw(st.booleans())
        sizes = draw(st.lists(st.integers(1, 10**10), min_size=count, max_size=count))
        first = FIRST + len(singles)
        singles += [
            RestTrade("X", first + n, number, price, float(Decimal(size).scaleb(-8)), sell)
            for n, size in enumerate(sizes)
        ]
        whole = float(Decimal(sum(sizes)).scaleb(-8))
        aggregates.append(RestTrade("X", first, number, price, whole, sell, count))
    return singles, aggregates


@given(traded(), st.data())
def test_aggregates_and_single_trades_are_the_trades_of_the_exchange(
    made: tuple[list[RestTrade], list[RestTrade]], data: st.DataObject
) -> None:
    singles, aggregates = made
    published = data.draw(st.lists(st.sampled_from(singles), unique=True))
    by_id = {one.trade_id: one for one in published}
    lacking = [one.trade_id for one in singles if one.trade_id not in by_id]
    assume(lacking)
    hole = TradeHole("gap", 1, first_id=lacking[0], last_id=lacking[-1])
    by_rest = data.draw(st.lists(st.sampled_from(singles), unique=True, max_size=5))
    # sizes of trades long ago are not known any more
    remembered = data.draw(st.sets(st.sampled_from(singles))) & set(published)
    known = {one.trade_id: (one.price, one.size, one.sell) for one in remembered}
    hole.aggregates = data.draw(st.permutations([*aggregates, *aggregates]))
    inside = sorted(id for id in by_id if hole.first_id <= id <= hole.last_id)
    found = by_number(hole, by_rest, inside, known)
    ids = [id for one in found.trades for id in range(one.trade_id, one.last_id + 1)]
    assert len(ids) == len(set(ids))
    assert set(ids) <= set(lacking)
    assert found.lost == len(lacking) - len(ids)
    truth = {one.trade_id: one for one in singles}
    for one in found.trades:
        parts = [truth[id] for id in range(one.trade_id, one.last_id + 1)]
        assert {(part.price, part.sell) for part in parts} == {(one.price, one.sell)}
        assert Decimal(str(one.size)) == sum(Decimal(str(part.size)) for part in parts)
    if remembered == set(published):
        # only gaps inside of an aggregate cannot be distinguished
        for whole in aggregates:
            single = {one.trade_id for one in by_rest}
            missing = [
                id for id in lacking if whole.trade_id <= id <= whole.last_id and id not in single
            ]
            together = not missing or missing[-1] - missing[0] + 1 == len(missing)
            assert not together or set(missing) <= set(ids)
