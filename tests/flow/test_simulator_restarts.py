"""The exchange is killed and restarted at random moments; the books come back each time."""

from __future__ import annotations

import random
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.flow.exchanges import MARKETS, Exchanges

BACK_S = 90.0
START_S = 120.0
SEED = 15


@pytest.fixture
def exchanges() -> Iterator[Exchanges]:
    # the length of socket paths is limited
    with tempfile.TemporaryDirectory(prefix="cs-") as folder:
        running = Exchanges(Path(folder))
        try:
            yield running
        finally:
            running.close()


@pytest.mark.timeout(300)
@pytest.mark.parametrize(
    "kills", [2, pytest.param(20, marks=[pytest.mark.slow, pytest.mark.timeout(900)])]
)
def test_books_come_back_each_time_the_exchange_is_killed(exchanges: Exchanges, kills: int) -> None:
    chance = random.Random(SEED)
    exchanges.until_synced([0] * len(MARKETS), START_S)
    took = []
    for _ in range(kills):
        # in the middle of a first sync, or after a while
        time.sleep(chance.choice([0.0, 0.5, 3.0]) * chance.random())
        before = exchanges.connects()
        exchanges.kill()
        time.sleep(chance.uniform(0.0, 4.0))
        exchanges.restart()
        took.append(round(exchanges.until_synced(before, BACK_S), 1))
    print("seconds to sync:", took)
    for process in exchanges.collectors:
        assert process.poll() is None
    assert "Traceback" not in exchanges.text
    assert "never retrieved" not in exchanges.text
