"""The storage stage without a database: which rows and holes it makes, and in which order."""

from itertools import count
from typing import Any

import orjson
import pytest

from coinspace._ext.message import HEARTBEAT, STATE, Message, encode_header
from coinspace._ext.sink import ListSink
from coinspace.config import IndexSettings, Settings, StoragePolicy, StorageSettings
from coinspace.storage.gaps import VenueOutage
from coinspace.storage.ledger import EPOCHS_LIMIT, HOLES_LIMIT, Ledger
from coinspace.storage.outages import UNWRITTEN_LIMIT
from coinspace.storage.policy import Policies, Rule, policies
from coinspace.storage.stage import StorageStage
from tests.flow.feeding import START_NS, Feeder

PUBLISHER = "orderbook-collector-upbit"
TOPICS = (b"orderbook.", b"state.")
TOPIC = b"orderbook.upbit.BTC/KRW."


class Rows:
    """Accepts rows as the sender does, as many as it has room for."""

    def __init__(self, room: int = 1 << 30) -> None:
        self.pending = 0
        self.rows: list[tuple[str, dict[str, Any], int]] = []
        self.room = room

    def row(self, table: str, *, symbols: Any, columns: Any, at_ns: int, key: Any = None) -> bool:
        if len(self.rows) >= self.room:
            return False
        self.rows.append((table, {**symbols, **columns}, at_ns))
        return True

    def lines(self, table: str) -> "Rows | None":
        return None if self.full else self

    def orderbook(self, head: bytes, message: Message, depth: int) -> int:
        self.rows.append(("orderbook", {"seq": message.sequence}, message.received_ns))
        return len(self.rows)

    def took(self, size: int, key: Any = None) -> None:
        assert size == len(self.rows)

    @property
    def full(self) -> bool:
        return len(self.rows) >= self.room

    async def drained(self, timeout_s: float) -> bool:
        return True

    def seal(self) -> None:
        self.rows.append(("seal", {}, 0))

    def of(self, table: str) -> list[dict[str, Any]]:
        return [row for name, row, _ in self.rows if name == table]


def books(n: int, epoch: int = 7) -> list[Message]:
    sink = ListSink(epoch)
    Feeder(sink, PUBLISHER).send(n)
    return [message for message in sink.messages if message.topic == TOPIC]


def stage(rows: Rows) -> StorageStage:
    return StorageStage(rows, TOPICS, Policies([], 30), clock=lambda: START_NS)  # type: ignore[arg-type]


def test_repeats_are_not_stored() -> None:
    rows = Rows()
    made = stage(rows)
    for message in books(20):
        made.on_message(PUBLISHER, message)
    stored = rows.of("orderbook")
    assert [row["seq"] for row in stored] == [i for i in range(1, 21) if i not in (10, 20)]
    assert made.repeats == 2
    assert rows.of("gap") == []


def test_the_policy_leaves_out_all_but_the_first_message_of_an_interval() -> None:
    rows = Rows()
    entries = [
        StoragePolicy(markets=["upbit:*/KRW"], books_per_second=5),
        StoragePolicy(markets=["*"], depth=1),
    ]
    rules = Policies(entries, 30)
    made = StorageStage(rows, TOPICS, rules, clock=lambda: START_NS)  # type: ignore[arg-type]
    # 20 books a second
    clock = count(START_NS, 50_000_000)
    sink = ListSink(7, clock=lambda: next(clock))
    Feeder(sink, PUBLISHER).send(40)
    messages = [message for message in sink.messages if message.topic == TOPIC]
    for message in messages:
        made.on_message(PUBLISHER, message)
    stored = [row["seq"] for row in rows.of("orderbook")]
    slots = [one.published_ns // 200_000_000 for one in messages if one.sequence % 10]
    assert 1 < len(stored) == len(set(slots)) < 36
    assert made.counters()['thinned{kind="orderbook"}'] == 36 - len(stored)
    # left out is not missing
    assert rows.of("gap") == []
    assert made.ledger.missing() == 0


def test_the_first_entry_that_matches_a_market_counts() -> None:
    entries = [
        StoragePolicy(markets=["upbit:BTC/*", "*:ETH/*"]),
        StoragePolicy(markets=["*:*/KRW"], depth=5, books_per_second=2),
        StoragePolicy(markets=["binance:*/*"], tickers_per_second=0.1),
    ]
    rules = Policies(entries, 20)
    assert rules.of("orderbook", "upbit", "BTC/KRW") == Rule(20)
    assert rules.of("orderbook", "bithumb", "BTC/KRW") == Rule(5, 500_000_000)
    assert rules.of("trade", "bithumb", "BTC/KRW") == Rule(5)
    assert rules.of("ticker", "binance", "SOL/USDT") == Rule(20, 10_000_000_000)
    # no entry
    assert rules.of("orderbook", "upbit", "SOL/USDT") == Rule(20)


def test_by_default_only_markets_of_patterns_are_thinned() -> None:
    settings = Settings(index=IndexSettings(assets=["XRP"]))
    settings.exchanges["upbit"].markets = ["DOGE/KRW", "*/KRW"]
    default = policies(settings)
    for market in ("DOGE/KRW", "XRP/KRW", "USDT/KRW"):
        assert default.of("orderbook", "upbit", market) == Rule(30), market
        assert default.of("ticker", "upbit", market) == Rule(30), market
    assert default.of("orderbook", "upbit", "PEPE/KRW") == Rule(10, 5_000_000_000)
    assert default.of("trade", "upbit", "PEPE/KRW") == Rule(10)
    # an entry of one's own replaces them
    chosen = settings.model_copy(
        update={"storage": StorageSettings(policy=[StoragePolicy(markets=["*:DOGE/*"], depth=1)])}
    )
    assert policies(chosen).of("orderbook", "upbit", "DOGE/KRW") == Rule(1)
    assert policies(chosen).of("orderbook", "upbit", "PEPE/KRW") == Rule(30)


@pytest.mark.parametrize(
    ("entry", "text"),
    [
        ({"markets": []}, "at least 1 item"),
        ({"markets": ["upbit"]}, "expected EXCHANGE:BASE/QUOTE"),
        ({"markets": ["upbti:*/KRW"]}, "expected EXCHANGE:BASE/QUOTE of upbit, bithumb"),
        ({"markets": ["*"], "depth": 0}, "greater than or equal to 1"),
        ({"markets": ["*"], "books_per_second": -1}, "greater than or equal to 0"),
        ({"markets": ["*"], "tickers_per_second": 0.001}, "one a minute"),
        ({"markets": ["*"], "ttl": "7d"}, "Extra inputs"),
    ],
)
def test_a_wrong_policy_is_refused(entry: dict[str, Any], text: str) -> None:
    with pytest.raises(ValueError, match=text):
        StorageSettings(policy=[StoragePolicy(**entry)])


def test_a_hole_is_written_before_later_messages() -> None:
    rows = Rows()
    made = stage(rows)
    messages = books(9)
    for i in (0, 1, 4, 5):
        made.on_message(PUBLISHER, messages[i])
    names = [name for name, _, _ in rows.rows]
    assert names == ["orderbook", "orderbook", "gap", "seal", "orderbook", "orderbook"]
    gap = rows.of("gap")[0]
    assert (gap["first"], gap["last"], gap["count"], gap["status"]) == (3, 4, 2, "open")
    assert (gap["publisher"], gap["kind"], gap["epoch"]) == (PUBLISHER, "orderbook", 7)


def test_a_first_message_that_is_not_the_first_opens_a_hole() -> None:
    rows = Rows()
    made = stage(rows)
    made.on_message(PUBLISHER, books(9)[6])
    assert [(gap["first"], gap["last"]) for gap in rows.of("gap")] == [(1, 6)]


def test_messages_without_memory_become_one_growing_hole() -> None:
    rows = Rows(room=2)
    made = stage(rows)
    messages = books(9)
    for message in messages[:6]:
        made.on_message(PUBLISHER, message)
    assert made.shed == 4
    ((_, hole),) = made.ledger.holes(PUBLISHER)
    assert (hole.first, hole.last, hole.announced) == (3, 6, False)
    rows.room = 100
    made.on_message(PUBLISHER, messages[6])
    names = [name for name, _, _ in rows.rows]
    assert names == ["orderbook", "orderbook", "gap", "seal", "orderbook"]
    assert [(gap["first"], gap["last"]) for gap in rows.of("gap")] == [(3, 6)]


def test_repeats_do_not_split_a_growing_hole() -> None:
    rows = Rows(room=2)
    made = stage(rows)
    for message in books(40):
        made.on_message(PUBLISHER, message)
    ((_, hole),) = made.ledger.holes(PUBLISHER)
    assert (hole.first, hole.last) == (3, 40)


def test_a_stored_message_is_not_stored_again() -> None:
    rows = Rows()
    made = stage(rows)
    made.ledger.restore(made.ledger.stream(PUBLISHER, TOPIC, 7), 4, [])
    for message in books(6):
        made.on_message(PUBLISHER, message)
    assert [row["seq"] for row in rows.of("orderbook")] == [5, 6]
    assert rows.of("gap") == []
    assert made.known == 4


@pytest.mark.parametrize(
    ("lost", "expected"),
    [
        ([], [("filled", 3, 6)]),
        ([(4, 5)], [("lost", 4, 5), ("filled", 3, 6)]),
        ([(3, 4), (6, 6)], [("lost", 6, 6), ("lost", 3, 4)]),
    ],
)
def test_a_closed_hole_has_the_lost_ranges(
    lost: list[tuple[int, int]], expected: list[tuple[str, int, int]]
) -> None:
    rows = Rows()
    made = stage(rows)
    messages = books(9)
    for i in (0, 1, 6):
        made.on_message(PUBLISHER, messages[i])
    ((stream, hole),) = made.ledger.holes(PUBLISHER)
    before = len(rows.rows)
    assert made.close(stream, hole, lost, "not in the journal")
    after = rows.rows[before:]
    # committed before it counts as filled
    assert after[0][0] == "seal"
    assert [(row["status"], row["first"], row["last"]) for _, row, _ in after[1:]] == expected
    # it has the identity of the open row and replaces it; it comes last, so a worker that dies
    # earlier finds the hole open
    assert after[-1][1]["first"] == hole.first
    assert {at for name, _, at in rows.rows if name == "gap"} == {START_NS}
    assert made.ledger.missing() == 0


def test_a_heartbeat_reveals_a_lost_tail_and_a_topic_without_messages() -> None:
    rows = Rows()
    made = stage(rows)
    messages = books(5)
    for message in messages[:3]:
        made.on_message(PUBLISHER, message)
    sink = ListSink(7)
    facts = (
        b'{"process":"orderbook-collector-upbit","epoch":7,"sequences":{'
        b'"orderbook.upbit.BTC/KRW.":5,"orderbook.upbit.SOL/KRW.":2,"ticker.upbit.BTC/KRW.":9}}'
    )
    sink.publish(sink.topic(b"heartbeat.orderbook-collector-upbit."), 7, facts)
    made.on_message(PUBLISHER, sink.messages[0])
    found = [(stream.topic, hole.first, hole.last) for stream, hole in made.ledger.holes(PUBLISHER)]
    assert sorted(found) == [(TOPIC, 4, 5), (b"orderbook.upbit.SOL/KRW.", 1, 2)]


def test_an_outage_lasts_from_leaving_the_working_state_to_its_return() -> None:
    rows = Rows()
    made = stage(rows)
    sink = ListSink(7)
    feeder = Feeder(sink, PUBLISHER)
    for state in ("connecting", "synced", "stale", "quarantined", "synced"):
        feeder.sent += 1
        feeder.state(state, "why")
    for message in sink.messages:
        made.on_message(PUBLISHER, message)
    outages = [
        (name, row["status"], row["reason"], at)
        for name, row, at in rows.rows
        if name == "gap" and row["market"] == "BTC/KRW"
    ]
    at = [START_NS + i * 1_000_000 for i in range(6)]
    assert outages == [
        ("gap", "open", "connecting: why", at[1]),
        ("gap", "filled", "connecting: why", at[1]),
        ("gap", "open", "stale: why", at[3]),
        ("gap", "filled", "stale: why", at[3]),
    ]
    assert len(rows.of("state")) == 10
    assert made.outages.open == {}


def test_lost_trades_and_states_of_markets_that_are_not_collected() -> None:
    rows = Rows()
    made = stage(rows)
    sink = ListSink(7)
    for market, facts in (
        ("BTC/KRW", {"state": "synced", "reason": "trades lost: at least 3", "lost": 3}),
        ("BTC/KRW", {"state": "synced", "reason": "trades filled by REST: 2", "lost": 0}),
        ("NEW/KRW", {"state": "disconnected", "reason": "listed", "collected": False}),
    ):
        topic = sink.topic(f"state.upbit.{market}.".encode())
        payload = orjson.dumps({**facts, "from_ns": START_NS})
        sink.publish(topic, STATE, payload, received_ns=START_NS + 5)
    for message in sink.messages:
        made.on_message(PUBLISHER, message)
    (gap,) = rows.of("gap")
    assert (gap["kind"], gap["status"], gap["market"]) == ("trade", "lost", "BTC/KRW")
    assert (gap["count"], gap["reason"]) == (3, "trades lost: at least 3")
    assert made.outages.open == {}
    # table `state` contains all of it
    assert [row["reason"] for row in rows.of("state")][-1] == "listed"


def test_an_outage_ends_when_its_market_is_not_collected_any_more() -> None:
    rows = Rows()
    made = stage(rows)
    sink = ListSink(7)
    topics = {one: sink.topic(f"state.upbit.{one}.".encode()) for one in ("BTC/KRW", "OLD/KRW")}
    facts: list[tuple[str, str, dict[str, Any]]] = [
        ("BTC/KRW", "stale", {}),
        ("OLD/KRW", "halted", {}),
    ]
    facts.append(("OLD/KRW", "halted", {"change": "delisted", "collected": False}))
    for n, (market, state, more) in enumerate(facts):
        payload = orjson.dumps({"state": state, **more})
        sink.publish(topics[market], STATE, payload, received_ns=START_NS + n)
    for message in sink.messages:
        made.on_message(PUBLISHER, message)
    assert [key[2] for key in made.outages.open] == ["BTC/KRW"]

    # a later process does not collect the other one
    def beat(epoch: int, states: dict[str, str]) -> None:
        sink.clear()
        body = {"process": PUBLISHER, "epoch": epoch, "sequences": {}, "states": states}
        sink.publish(sink.topic(f"heartbeat.{PUBLISHER}.".encode()), HEARTBEAT, orjson.dumps(body))
        made.on_message(PUBLISHER, sink.messages[-1])

    beat(7, {"BTC/KRW": "stale"})
    beat(8, {})
    assert [key[2] for key in made.outages.open] == ["BTC/KRW"]
    beat(8, {"ETH/KRW": "synced"})
    assert made.outages.open == {}
    found = [(row["market"], row["status"]) for row in rows.of("gap")]
    assert found[-1] == ("BTC/KRW", "filled")
    # it comes back as a new market
    beat(9, {"ETH/KRW": "synced"})
    assert made.outages.open == {}


def test_a_row_that_the_database_refuses_is_accounted_for_once_there_is_room() -> None:
    rows = Rows(room=0)
    made = stage(rows)
    made.on_rejected((PUBLISHER, TOPIC.decode(), 7, 3), "orderbook", "cast error", START_NS)
    made.on_rejected(None, "index_tick", "cast error", START_NS)
    assert rows.rows == []
    rows.room = 10
    made.settle()
    (gap,) = rows.of("gap")
    assert (gap["status"], gap["first"], gap["last"]) == ("dead", 3, 3)
    assert "cast error" in gap["reason"]


def test_unreadable_heartbeats_and_foreign_topics_are_counted_not_stored() -> None:
    rows = Rows()
    made = stage(rows)
    sink = ListSink(7)
    sink.publish(sink.topic(b"heartbeat.orderbook-collector-upbit."), 7, b"{")
    sink.publish(sink.topic(b"index.BTC."), 6, b"{}")
    for message in sink.messages:
        made.on_message(PUBLISHER, message)
    assert made.malformed == 1
    assert rows.rows == []


def test_holes_come_oldest_first() -> None:
    ledger = Ledger()
    late = ledger.stream(PUBLISHER, TOPIC, 9)
    early = ledger.stream(PUBLISHER, b"orderbook.upbit.ETH/KRW.", 8)
    ledger.expect(late, 5, 100)
    ledger.expect(early, 5, 200)
    assert [stream.epoch for stream, _ in ledger.holes(PUBLISHER)] == [8, 9]
    assert ledger.missing() == 10


def _beat(epoch: int, sequences: object) -> Message:
    sink = ListSink(epoch)
    payload = orjson.dumps({"process": PUBLISHER, "epoch": epoch, "sequences": sequences})
    sink.publish(sink.topic(f"heartbeat.{PUBLISHER}.".encode()), 7, payload)
    return sink.messages[0]


def test_ten_thousand_restarts_cost_no_memory() -> None:
    rows = Rows()
    made = stage(rows)
    (message,) = books(1)
    markets = [TOPIC, b"orderbook.upbit.ETH/KRW."]
    sizes = []
    for epoch in range(1, 10_001):
        made.on_message(PUBLISHER, _beat(epoch, {}))
        for topic in markets:
            header = encode_header(
                1, n_bids=15, n_asks=15, payload_size=len(message.payload), epoch=epoch, sequence=1
            )
            made.on_message(PUBLISHER, Message.decode(topic, header, message.payload))
        sizes.append(made.counters()["streams"])
        rows.rows.clear()
    assert max(sizes) <= 2 * (EPOCHS_LIMIT + 1)
    assert made.ledger.finished == {PUBLISHER: set()}
    assert len(made._current) <= 2


def test_a_link_that_loses_every_second_message_costs_no_memory() -> None:
    rows = Rows()
    made = stage(rows)
    count = 2 * HOLES_LIMIT + 500
    for message in books(2 * count)[::2]:
        made.on_message(PUBLISHER, message)
    (stream,) = made.ledger.streams.values()
    assert len(stream.holes) <= HOLES_LIMIT + 1
    found = made.ledger.holes_found
    assert found > 2 * HOLES_LIMIT
    # the oldest holes are kept, and each has its row
    assert [hole.first for hole in stream.holes[:3]] == [2, 4, 6]
    opened = [row for row in rows.of("gap") if row["status"] == "open"]
    assert len(opened) == found
    counters = made.counters()
    assert counters["gaps_open"] == found
    assert counters["gaps_put_off"] == stream.put_off == found - len(stream.holes)
    # an epoch with missing messages is not forgotten
    for hole in list(stream.holes):
        made.ledger.close(stream, hole)
    made.epochs[PUBLISHER] = stream.epoch + 1
    made.finish(PUBLISHER, [stream.epoch])
    assert list(made.ledger.streams.values()) == [stream]
    made.ledger.read_again(stream, [], all_read=True)
    made.finish(PUBLISHER, [stream.epoch])
    assert not made.ledger.streams


def test_outages_wait_in_bounded_memory_while_none_can_be_written() -> None:
    rows = Rows(room=0)
    made = stage(rows)
    topic = b"state.upbit.BTC/KRW."
    stream = made.ledger.stream(PUBLISHER, topic, 7)
    for number in range(UNWRITTEN_LIMIT + 10):
        facts = {"state": ("halted", "synced")[number % 2], "since_ns": START_NS + number}
        payload = orjson.dumps(facts)
        head = encode_header(STATE, payload_size=len(payload), epoch=7, sequence=number + 1)
        made.outages.on_state(PUBLISHER, stream, Message.decode(topic, head, payload), START_NS)
    assert made.counters()["outages_dropped"] == 0
    for number in range(2 * UNWRITTEN_LIMIT):
        outage = VenueOutage(7, START_NS + number, "x", START_NS + number + 1)
        made.outages._write((PUBLISHER, "upbit", "BTC/KRW"), outage)
    assert len(made.outages._unwritten) == UNWRITTEN_LIMIT
    assert made.counters()["outages_dropped"] > 0
    rows.room = 1 << 30
    made.settle()
    assert len(rows.of("gap")) == UNWRITTEN_LIMIT


def test_a_finished_epoch_is_one_number_and_can_be_taken_up_again() -> None:
    ledger = Ledger()
    for epoch in range(1, 11):
        stream = ledger.stream(PUBLISHER, TOPIC, epoch)
        ledger.expect(stream, 3, START_NS)
        for _, hole in ledger.holes(PUBLISHER):
            # the fifth epoch waits for its journal
            if epoch != 5:
                ledger.close(stream, hole)
        if epoch == 5:
            break
    for epoch in range(6, 11):
        ledger.arrive(ledger.stream(PUBLISHER, TOPIC, epoch), 1, START_NS)
    ledger.finish(PUBLISHER, 10, {2, 3, 4, 5, 6, 9, 10})
    assert sorted(epoch for _, _, epoch in ledger.streams) == [5, 10]
    assert ledger.finished == {PUBLISHER: {2, 3, 4, 6, 9}}
    # the journal drops the epoch, and so does the ledger
    ledger.finish(PUBLISHER, 10, {9, 10})
    assert ledger.finished == {PUBLISHER: {9}}
    ledger.reopen(PUBLISHER, 9, {TOPIC: 7})
    assert ledger.finished == {PUBLISHER: set()}
    assert ledger.stream(PUBLISHER, TOPIC, 9).last == 7


@pytest.mark.parametrize(
    "sequences",
    [
        [],
        None,
        {"orderbook.upbit.BTC/KRW.": 1e30},
        {"orderbook.upbit.BTC/KRW.": (1 << 64) - 1},
        {"orderbook.upbit.BTC/KRW.": (1 << 63) - 1},
        {"orderbook.upbit.BTC/KRW.": [1]},
        {"orderbook.upbit.BTC/KRW.": None},
    ],
    ids=repr,
)
def test_a_heartbeat_of_impossible_sequences_is_refused(sequences: object) -> None:
    rows = Rows()
    made = stage(rows)
    made.on_message(PUBLISHER, _beat(7, sequences))
    assert made.malformed == 1
    assert made.ledger.missing() == 0


@pytest.mark.parametrize(
    "facts",
    [
        {"state": "synced", "since_ns": 1e30},
        {"state": "synced", "since_ns": -(1 << 62)},
        {"state": "synced", "lost": 1e30},
        {"state": "synced", "lost": [3], "from_ns": {}},
        {"state": ["x"], "reason": {"a": 1}, "since_ns": "soon"},
        {"state": "connecting", "since_ns": (1 << 64) - 1},
    ],
    ids=repr,
)
def test_a_state_with_impossible_numbers_is_stored(facts: object) -> None:
    rows = Rows()
    made = stage(rows)
    sink = ListSink(7)
    sink.publish(sink.topic(b"state.upbit.BTC/KRW."), STATE, orjson.dumps(facts))
    made.on_message(PUBLISHER, sink.messages[0])
    assert len(rows.of("state")) == 1
    for row in rows.of("gap"):
        assert row["count"] < 1 << 63
