"""The explanation of a stored tick whose rows someone has changed: a problem, no failure."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from coinspace.endpoint.history import curve
from coinspace.endpoint.history.explain import stored_explanation
from coinspace.endpoint.http.problem import Problem
from coinspace.method.record import decode
from coinspace.storage.read import history
from coinspace.storage.tables import INDEX_TICK
from tests.unit.test_index_record import CASES, computed, rows_of, selected

DAMAGES: dict[str, dict[str, Any]] = {
    "shares without venues": {"kr_venues": "upbit:BTC/KRW,bithumb:BTC/KRW,a", "kr_shares": [1.0]},
    "text that is no JSON": {"siblings": "{"},
    "other parts": {"siblings": '{"regions": 1}'},
    "rows of another length": {"liquidity": [[1.0]]},
}


@pytest.mark.parametrize("damage", DAMAGES)
async def test_a_damaged_tick_is_a_problem(damage: str, monkeypatch: pytest.MonkeyPatch) -> None:
    case = next(case for case in CASES if decode(case["record"].encode()).value is not None)
    tick, *_ = rows_of(decode(case["record"].encode()), computed(case))
    row = selected(tick, INDEX_TICK) | {"ns": tick.at_ns}

    async def stored(*given: object) -> dict[str, Any]:
        return row | DAMAGES[damage]

    async def venues(*given: object) -> list[dict[str, Any]]:
        return []

    async def no_curve(*given: object) -> None:
        raise curve.Missing("none")

    monkeypatch.setattr(history, "tick", stored)
    monkeypatch.setattr(history, "tick_venues", venues)
    monkeypatch.setattr(curve, "of_stored", no_curve)
    context: Any = SimpleNamespace(database=None)
    with pytest.raises(Problem, match="the BTC tick of that time is damaged") as caught:
        await stored_explanation(context, "BTC", tick.at_ns)
    assert caught.value.status == 404
