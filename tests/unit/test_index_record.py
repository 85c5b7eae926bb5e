"""The typed record: older data stays readable, and a new field is defined once."""

from __future__ import annotations

import base64
import gzip
import hashlib
import re
from pathlib import Path
from typing import Annotated, Any

import msgspec
import orjson
import pytest

from coinspace.config import IndexParameters
from coinspace.endpoint.history.explain import explanation
from coinspace.endpoint.http.api import encode as answer
from coinspace.endpoint.models import IndexValue
from coinspace.endpoint.records import index_value
from coinspace.endpoint.routes.history import points
from coinspace.endpoint.shown import show, shows
from coinspace.errors import MessageError
from coinspace.index.calculator import Index
from coinspace.index.chain import hashed_row
from coinspace.index.spool import Spool
from coinspace.method import aggregate as aggregates
from coinspace.method.aggregate import Aggregate
from coinspace.method.record import (
    IndexRecord,
    Kind,
    Price,
    VenueRecord,
    decode,
    encode,
)
from coinspace.recompute.commands import reproducible
from coinspace.recompute.verify import recalc_row
from coinspace.storage.parts import PART_NAMES, stored_siblings
from coinspace.storage.records import Row, comparable, read_record, tick_row, venue_rows
from coinspace.storage.tables import (
    INDEX_NEXT,
    INDEX_RECALC,
    INDEX_TICK,
    INDEX_VENUE,
    Table,
    columns_of,
    record_table,
)
from coinspace.storage.transport import TimestampNanos

# written by the version whose records were dictionaries
RECORDED = Path(__file__).parent / "recorded"
CASES = [
    orjson.loads(line)
    for line in gzip.decompress((RECORDED / "index.jsonl.gz").read_bytes()).splitlines()
]
# made at one tick, without memory of others
ALONE = ("ok", "grid with fees", "flagged", "split", "one empty book", "tiny price")

# fields that the recorded version did not have
ADDED = tuple(
    name
    for name in IndexRecord.__struct_fields__
    if name.startswith(("usd_krw", "usdt_usd", "value_usd"))
)

each = pytest.mark.parametrize("case", CASES, ids=[case["name"] for case in CASES])


def computed(case: dict[str, Any]) -> Aggregate | None:
    """Return the aggregate behind a record, None for a tick that was not computed."""
    if case["aggregate"] is None:
        return None
    return aggregates.decode(
        base64.b64decode(case["aggregate"]),
        epoch=stored_rows(case)[0].columns["epoch"],
        sequence=stored_rows(case)[0].columns["seq"],
    )


def rows_of(record: IndexRecord, behind: Aggregate | None) -> list[Row]:
    rows = [tick_row(record, aggregate=behind)]
    return rows + list(venue_rows(record, fx=True)) if behind is not None else rows


def stored_rows(case: dict[str, Any]) -> list[Row]:
    return [
        Row(
            table,
            at_ns,
            symbols,
            {
                name: TimestampNanos(value["ns"]) if isinstance(value, dict) else value
                for name, value in columns.items()
            },
        )
        for table, at_ns, symbols, columns in orjson.loads(case["rows"])
    ]


def earlier(row: Row, table: Table = INDEX_TICK) -> Row:
    """Return a tick's row as earlier versions stored it, with its parts as JSON."""
    if row.table == "index_venue":
        columns = {name: value for name, value in row.columns.items() if name != "grouped_from"}
        return Row(row.table, row.at_ns, row.symbols, columns)
    left_out = PART_NAMES.union(ADDED)
    symbols = {name: value for name, value in row.symbols.items() if name not in left_out}
    columns = {name: value for name, value in row.columns.items() if name not in left_out}
    columns["siblings"] = stored_siblings(selected(row, table))
    return Row(row.table, row.at_ns, symbols, columns)


def shown(rows: list[Row]) -> list[Any]:
    """Return rows in a comparable form, times included."""
    return [
        (one.table, one.at_ns, one.symbols, {**one.columns, **_times(one.columns)}) for one in rows
    ]


def _times(columns: dict[str, Any]) -> dict[str, int]:
    return {
        name: value.value for name, value in columns.items() if isinstance(value, TimestampNanos)
    }


def selected(row: Row, table: Table) -> dict[str, Any]:
    """Return a row as a SELECT of all columns returns it."""
    have = {**row.symbols, **row.columns, "ts": row.at_ns}
    values = ((name, have.get(name)) for name, _ in table.columns)
    return {
        name: value.value if isinstance(value, TimestampNanos) else value for name, value in values
    }


def read_back(rows: list[Row], kind: type[IndexRecord] = IndexRecord) -> IndexRecord:
    tick, *venues = rows
    found = (selected(one, INDEX_VENUE) for one in venues)
    return read_record(selected(tick, record_table("t", kind)), tick.at_ns, found, kind)


@each
def test_an_older_message_is_read_and_stored_unchanged(
    case: dict[str, Any], tmp_path: Path
) -> None:
    record = decode(case["record"].encode())
    assert decode(encode(record)) == record
    behind = computed(case)
    rows = rows_of(record, behind)
    assert shown([earlier(one) for one in rows]) == shown(stored_rows(case))
    assert "siblings" not in rows[0].columns
    if behind is not None:
        # the input of `compute-index --hash`
        text = orjson.dumps(reproducible(record), option=orjson.OPT_SORT_KEYS)
        assert hashlib.sha256(text).hexdigest() == case["hashed"]
    recomputed = msgspec.structs.replace(record, latency_ns=None)
    restated = recalc_row(recomputed, 1.5, "ops", "test", 7)
    assert earlier(restated, INDEX_RECALC) == Row(*orjson.loads(case["recalc"]))
    # the hash chain covers the record, not the way it is stored
    assert chained(rows) == chained(stored_rows(case)) == case["chained"]
    # the spool of an earlier process, and one of this version
    path = tmp_path / "spool.jsonl"
    path.write_text(case["rows"] + "\n")
    assert shown(drained(Spool(path, 1 << 20))) == shown(stored_rows(case))
    spool = Spool(path, 1 << 20)
    assert spool.add(rows)
    assert shown([earlier(one) for one in drained(spool)]) == shown(stored_rows(case))


def drained(spool: Spool) -> list[Row]:
    taken: list[Row] = []

    def take(row: Row) -> bool:
        taken.append(row)
        return True

    spool.drain(take, 10)
    return taken


def chained(rows: list[Row]) -> str:
    digest = hashlib.sha256()
    for row in rows:
        table = INDEX_TICK if row.table == "index_tick" else INDEX_VENUE
        values = hashed_row(table, tuple(selected(row, table).values()))
        digest.update(orjson.dumps(values, option=orjson.OPT_APPEND_NEWLINE))
    return digest.hexdigest()


EXPLANATIONS = ("live_explanation", "stored_explanation")


def named(answer: str) -> str:
    """Return a recorded answer with today's names of a missing value and of a point's venues."""
    answer = answer.replace('"status":"null"', '"status":"no_value"')
    return re.sub(r'"constituents":(?=\d)', '"n_used":', answer)


def without_added(text: bytes) -> Any:
    """Return an answer without the fields that the recorded version did not have, all null."""
    found = orjson.loads(text)
    for one in (found, found.get("index", {})):
        for name in ("constituents", "used", "excluded", "fx_venues"):
            for venue in one.get(name, ()):
                assert venue.pop("grouped_from") is None
        for name in ADDED:
            assert one.pop(name, None) is None
    return found


@each
def test_the_answers_of_the_api_do_not_change(case: dict[str, Any]) -> None:
    record = decode(case["record"].encode())
    served = {name: named(case[name]) for name in ("answer", "point", *EXPLANATIONS)}
    before, now = served["answer"], without_added(answer(index_value(record)))
    assert now == orjson.loads(before)
    assert list(now) == list(orjson.loads(before))
    live = answer(explanation(record, None, "none", live=True))
    assert without_added(live) == orjson.loads(served["live_explanation"])
    rows = stored_rows(case)
    for either in (rows, rows_of(record, computed(case))):
        stored = answer(explanation(read_back(either), None, "none", live=False))
        assert without_added(stored) == orjson.loads(served["stored_explanation"])
    row = {**selected(rows[0], INDEX_TICK), "ns": rows[0].at_ns}
    assert answer(points([row], 2)[0]).decode() == served["point"]


@each
def test_an_older_aggregate_is_read_and_written_unchanged(case: dict[str, Any]) -> None:
    behind = computed(case)
    if behind is None:
        return
    assert aggregates.encode(behind)[0] == base64.b64decode(case["aggregate"])
    if case["name"] not in ALONE:
        return
    index = Index("BTC", IndexParameters(**case["parameters"]))
    again = index.compute(behind)
    again.latency_ns = 1_234_567
    for name in ADDED:
        setattr(again, name, None)
    assert again == decode(case["record"].encode())


def test_the_tables_do_not_change() -> None:
    made = [one.create("") for one in (INDEX_TICK, INDEX_NEXT, INDEX_RECALC, INDEX_VENUE)]
    assert made == (RECORDED / "index_tables.sql").read_text().splitlines()


@pytest.mark.parametrize(
    "payload",
    [
        b"",
        b"[]",
        b'{"asset":"BTC","ts_ms":1}',
        b'{"asset":"BTC","ts_ms":1,"status":"ok","value":"much"}',
        b'{"asset":"BTC","ts_ms":1,"status":"ok","regions":{"KR":{"value":1.0}}}',
        b'{"asset":"\xff","ts_ms":1,"status":"ok"}',
        b'{"asset":"BTC","ts_ms":1,"status":"ok","more":' + b"[" * 100_000,
    ],
)
def test_a_payload_that_is_not_a_record_is_refused(payload: bytes) -> None:
    with pytest.raises(MessageError, match="index record: "):
        decode(payload)


def test_no_second_form_of_a_row_has_its_hash() -> None:
    (case,) = (one for one in CASES if one["name"] == "ok")
    row = selected(rows_of(decode(case["record"].encode()), computed(case))[0], INDEX_TICK)
    text = stored_siblings(row)
    premium = {"premium_parts": orjson.loads(text)["premium_parts"]}
    without = selected(Row("index_tick", row["ts"], {"asset": "BTC"}, {}), INDEX_TICK)
    forms: list[dict[str, Any]] = [
        row,
        # parts as JSON and as columns, all or one
        row | {"siblings": text, "kr_value": 1.0},
        row | {"siblings": orjson.dumps(premium).decode(), "premium_b": 9.9},
        row | {"kr_venues": f",{row['kr_venues']}"},
        without,
        without | {"kr_value": 1.0},
        # damaged
        row | {"siblings": "{"},
        row | {"siblings": "[]"},
        row | {"kr_shares": [1.0]},
        row | {"liquidity": [[1.0, 2.0]]},
        row | {"liquidity": [1.0]},
    ]
    hashes = {
        orjson.dumps(hashed_row(INDEX_TICK, tuple(one[name] for name, _ in INDEX_TICK.columns)))
        for one in forms
    }
    assert len(hashes) == len(forms)


class Wider(IndexRecord, kw_only=True, gc=False):
    """A record with one more field of each storage format."""

    spread: Price = None
    halted: Annotated[bool | None, Kind.FLAG] = None
    notes: Annotated[dict[str, float] | None, Kind.PART] = None


def test_a_new_field_is_defined_once() -> None:
    old = decode(CASES[0]["record"].encode())
    behind = computed(CASES[0])
    facts = {name: getattr(old, name) for name in IndexRecord.__struct_fields__}
    wide = Wider(**facts, spread=0.123456789, halted=True, notes={"depth": 0.1})
    # on the bus
    assert msgspec.json.decode(encode(wide), type=Wider) == wide
    assert decode(encode(wide)) == old
    # a column, in a stored row and read back
    table = record_table("index_tick", Wider)
    added = (("spread", "DOUBLE"), ("halted", "BOOLEAN"))
    assert table.columns == (*INDEX_TICK.columns, *added)
    row, plain = tick_row(wide), tick_row(old)
    assert {name: row.columns[name] for name in row.columns if name not in plain.columns} == {
        "spread": 0.12345679,
        "halted": True,
        "siblings": '{"notes":{"depth":0.1}}',
    }
    back = read_back(rows_of(wide, behind), Wider)
    assert isinstance(back, Wider)
    assert (back.spread, back.halted, back.notes) == (0.12345679, True, {"depth": 0.1})
    # an older row has null there, and keeps its hash
    before = selected(plain, table) | {"halted": False}
    whole = hashed_row(INDEX_TICK, tuple(selected(plain, INDEX_TICK).values()))
    assert hashed_row(table, tuple(before.values())) == whole
    assert (
        len(hashed_row(table, tuple(selected(row, table).values()))) == len(whole) + len(ADDED) + 2
    )
    # the fields that a recomputation compares
    found, known = comparable(wide), comparable(old)
    assert {name: found[name] for name in found if name not in known} == {
        "spread": 0.12345679,
        "halted": True,
        "notes": {"depth": 0.1},
    }


def test_a_new_field_is_answered_and_described() -> None:
    @shows(Wider)
    class WiderValue(msgspec.Struct, kw_only=True):
        asset: str

    schema = msgspec.json.schema(WiderValue)["$defs"]["WiderValue"]["properties"]
    known = msgspec.json.schema(IndexValue)["$defs"]["IndexValue"]["properties"]
    assert [name for name in schema if name not in known] == ["spread", "halted"]
    assert schema["spread"] == known["best_bid"]
    assert schema["halted"] == {"anyOf": [{"type": "boolean"}, {"type": "null"}]}
    wide = Wider(asset="BTC", ts_ms=1, status="ok", spread=1e-9, halted=False)
    shown = msgspec.to_builtins(show(WiderValue, wide, asset="BTC"))
    assert (shown["asset"], shown["spread"], shown["halted"]) == ("BTC", "0.000000001", False)


def test_a_new_field_of_a_venue_is_defined_once() -> None:
    class WiderVenue(VenueRecord, kw_only=True):
        spread: Price = None

    assert columns_of(WiderVenue) == (*columns_of(VenueRecord), ("spread", "DOUBLE"))
    one = Wider(asset="BTC", ts_ms=1, status="ok")
    one.venues = {"upbit:BTC/KRW": WiderVenue(used=True, spread=0.5)}
    one.inputs = decode(CASES[0]["record"].encode()).inputs
    (row,) = venue_rows(one, fx=False)
    assert row.columns["spread"] == 0.5
