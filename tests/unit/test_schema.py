"""The table declarations: keys exist, kinds of records share columns, views name existing ones."""

import pytest

from coinspace.storage.tables import INDEX_NEXT, INDEX_RECALC, INDEX_TICK, TABLES, VIEWS, Table


@pytest.mark.parametrize("table", TABLES, ids=lambda table: table.name)
def test_keys_are_columns_and_contain_the_time(table: Table) -> None:
    names = [name for name, _ in table.columns]
    assert len(names) == len(set(names))
    assert table.keys[0] == "ts"
    assert set(table.keys) <= set(names)
    assert names[-1] == "ts"


def test_every_kind_of_record_has_the_columns_of_a_tick() -> None:
    tick = dict(INDEX_TICK.columns)
    for other in (INDEX_NEXT, INDEX_RECALC):
        assert tick.items() <= dict(other.columns).items()


def test_views_stand_on_tables_or_earlier_views() -> None:
    known = {table.name for table in TABLES}
    for view in VIEWS:
        assert view.base in known
        known.add(view.name)


def test_ttl_can_be_left_out() -> None:
    book = next(table for table in TABLES if table.name == "orderbook")
    assert "TTL 7d" in book.create("7d")
    assert "TTL" not in book.create("")
