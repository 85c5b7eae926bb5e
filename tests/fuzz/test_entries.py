"""A bounded run over every place where bytes from outside come in."""

import pytest

from tests.fuzz import entries

COUNT = 2000
ENTRIES = entries.entries()


@pytest.mark.parametrize("entry", ENTRIES, ids=[entry.name for entry in ENTRIES])
def test_every_input_gives_a_value_or_a_refusal(entry: entries.Entry) -> None:
    result = entries.run(entry, COUNT // entry.cost, 20261130)
    assert not result.faults, (dict(result.faults), result.example[:300])
    assert result.grown < entries.MEMORY
    # seeds are accepted, or only the first check would be tested
    assert result.values >= len(entry.seeds)
    assert result.values < result.inputs or not entry.refusals or "frames" in entry.name
