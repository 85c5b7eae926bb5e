"""Sinks number, stamp and check; the list sink repeats bit for bit."""

import numpy as np
import pytest

from coinspace._ext.message import (
    GROUPED,
    ORDERBOOK,
    REPEAT,
    REPEATS_BITS,
    REPEATS_MOST,
    STATE,
    TICKER,
    TRADE,
    Message,
    encode_header,
)
from coinspace._ext.sink import ListSink
from coinspace.errors import MessageError

BOOK = b"orderbook.upbit.BTC/KRW."


def test_sequences_count_by_topic() -> None:
    sink = ListSink(7)
    book, trade = sink.topic(BOOK), sink.topic(b"trade.upbit.BTC/KRW.")
    assert sink.topic(BOOK) is book
    assert [sink.publish(book, ORDERBOOK, b"") for _ in range(3)] == [1, 2, 3]
    assert sink.publish(trade, TRADE, np.array([1.0, 2.0])) == 1
    assert sink.sequences == {BOOK: 3, trade.name: 1}
    assert [(m.topic, m.epoch, m.sequence) for m in sink.messages[-2:]] == [
        (BOOK, 7, 3),
        (trade.name, 7, 1),
    ]
    assert sink.published == 4


def test_a_message_has_the_published_values() -> None:
    sink = ListSink(7, clock=lambda: 99)
    levels = np.arange(10.0)
    sink.publish(
        sink.topic(BOOK),
        ORDERBOOK,
        levels,
        flags=REPEAT,
        n_bids=2,
        n_asks=3,
        exchange_ns=5,
        received_ns=6,
        id=8,
    )
    levels[:] = -1
    (message,) = sink.messages
    assert message.bids.tolist() == [[0.0, 1.0], [2.0, 3.0]]
    assert message.asks.tolist() == [[4.0, 5.0, 6.0], [7.0, 8.0, 9.0]]
    assert (message.exchange_ns, message.received_ns, message.published_ns) == (5, 6, 99)
    assert (message.id, message.flags) == (8, REPEAT)
    assert not message.bids.flags.writeable


def test_a_replay_repeats_bit_for_bit() -> None:
    def run() -> list[tuple[bytes, bytes, bytes]]:
        sink = ListSink()
        topic = sink.topic(BOOK)
        for i in range(5):
            sink.publish(topic, ORDERBOOK, np.full(4, i), n_bids=1, n_asks=1, received_ns=i + 1)
        return [(m.topic, m.header_bytes(), bytes(m.payload)) for m in sink.messages]

    assert run() == run()


@pytest.mark.parametrize("name", [b"orderbook.upbit.BTC/KRW", b"candle.upbit.X.", b"", b"x" * 300])
def test_a_wrong_topic_is_refused(name: bytes) -> None:
    with pytest.raises(MessageError, match="topic: expected KIND"):
        ListSink().topic(name)


def test_kind_and_size_must_agree() -> None:
    sink = ListSink()
    topic = sink.topic(BOOK)
    with pytest.raises(MessageError, match=r"kind: expected 1 .* was 2"):
        sink.publish(topic, TICKER, bytes(88))
    with pytest.raises(MessageError, match="payload size: expected 32 bytes"):
        sink.publish(topic, ORDERBOOK, bytes(31), n_bids=1, n_asks=1)
    with pytest.raises(MessageError, match="payload size: expected 88 bytes"):
        sink.publish(sink.topic(b"ticker.upbit.BTC/KRW."), TICKER, bytes(80))
    with pytest.raises((BufferError, ValueError)):
        sink.publish(topic, ORDERBOOK, np.zeros(8)[::2], n_bids=1, n_asks=1)
    assert topic.sequence == 0
    with pytest.raises(MessageError, match="epoch"):
        ListSink(0)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"version": 2}, "version: expected 1, was 2"),
        ({"kind": 0}, "kind: expected 1 to 9, was 0"),
        ({"kind": 10}, "kind: expected 1 to 9, was 10"),
        ({"payload_size": 31}, "payload size: expected 31"),
        ({"n_bids": 2}, "payload size: expected 48"),
        ({"n_bids": 2**32 - 1, "n_asks": 2**32 - 1}, "payload size: expected 137438953440"),
        ({"cut": 63}, "header size: expected 64 bytes, was 63"),
    ],
)
def test_a_foreign_header_is_refused(change: dict[str, int], reason: str) -> None:
    header = bytearray(encode_header(ORDERBOOK, n_bids=1, n_asks=1, payload_size=32))
    places = {"version": (0, 1), "kind": (1, 1), "n_bids": (4, 4), "n_asks": (8, 4)}
    places["payload_size"] = (12, 4)
    for name, value in change.items():
        if name == "cut":
            del header[value:]
        else:
            start, size = places[name]
            header[start : start + size] = value.to_bytes(size, "little")
    with pytest.raises(MessageError, match=reason):
        Message.decode(BOOK, header, bytes(32))


def test_state_payloads_may_have_any_size() -> None:
    sink = ListSink()
    sink.publish(sink.topic(b"state.upbit.BTC/KRW."), STATE, b'{"state":"synced"}')
    assert sink.messages[0].json() == {"state": "synced"}


def test_a_book_has_the_number_of_repeats_before_it() -> None:
    """Repeats are not stored: the next row has their number."""
    sink = ListSink()
    topic, other = sink.topic(BOOK), sink.topic(b"orderbook.upbit.ETH/KRW.")
    for repeats in (0, 1, 3, REPEATS_MOST, REPEATS_MOST + 9, 0):
        for _ in range(repeats):
            sink.publish(topic, ORDERBOOK, b"", flags=REPEAT)
        sink.publish(topic, ORDERBOOK, b"", flags=GROUPED)
        sink.publish(other, ORDERBOOK, b"")
    books = [m for m in sink.messages if m.topic == BOOK and not m.flags & REPEAT]
    carried = [book.flags >> REPEATS_BITS for book in books]
    assert carried == [0, 1, 3, REPEATS_MOST, REPEATS_MOST, 0]
    assert all(book.flags & GROUPED for book in books)
    assert all(m.flags == REPEAT for m in sink.messages if m.flags & REPEAT)
    assert all(m.flags == 0 for m in sink.messages if m.topic == other.name)
