"""Encoded messages read back; other bytes are refused without a crash."""

import struct

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from coinspace._ext.message import ORDERBOOK, Message, encode_header
from coinspace._ext.segment import SegmentIndex, checksum64, messages
from coinspace._ext.sink import ListSink
from coinspace.errors import JournalError, MessageError

LAYOUT = struct.Struct("<BBHIIIqqqqqq")
I64 = st.integers(-(2**63), 2**63 - 1)
SIDE = st.lists(st.tuples(st.floats(allow_nan=False), st.floats(allow_nan=False)), max_size=40)


@given(
    kind=st.integers(1, 7),
    flags=st.integers(0, 2**16 - 1),
    sizes=st.tuples(*[st.integers(0, 2**32 - 1)] * 3),
    numbers=st.tuples(*[I64] * 6),
)
def test_the_header_is_the_documented_struct(
    kind: int, flags: int, sizes: tuple[int, int, int], numbers: tuple[int, ...]
) -> None:
    names = ("epoch", "sequence", "exchange_ns", "received_ns", "published_ns", "id")
    n_bids, n_asks, size = sizes
    header = encode_header(
        kind,
        flags=flags,
        n_bids=n_bids,
        n_asks=n_asks,
        payload_size=size,
        **dict(zip(names, numbers, strict=True)),
    )
    assert header == LAYOUT.pack(1, kind, flags, n_bids, n_asks, size, *numbers)


@given(bids=SIDE, asks=SIDE, received_ns=st.integers(0, 2**63 - 1), id=I64)
def test_a_book_reads_back(
    bids: list[tuple[float, float]], asks: list[tuple[float, float]], received_ns: int, id: int
) -> None:
    sides = [np.array(side, dtype=np.float64).reshape(-1, 2).T for side in (bids, asks)]
    payload = np.concatenate([side.ravel() for side in sides])
    sink = ListSink()
    sink.publish(
        sink.topic(b"orderbook.x.A/B."),
        ORDERBOOK,
        payload,
        n_bids=len(bids),
        n_asks=len(asks),
        received_ns=received_ns,
        id=id,
    )
    (message,) = sink.messages
    for read, side in zip((message.bids, message.asks), sides, strict=True):
        assert read.shape == side.shape
        assert read.tobytes() == side.tobytes()
    assert (message.received_ns, message.id) == (received_ns, id)


@given(header=st.binary(max_size=80), payload=st.binary(max_size=64))
def test_garbage_is_refused_or_consistent(header: bytes, payload: bytes) -> None:
    try:
        message = Message.decode(b"orderbook.x.A/B.", header, payload)
    except MessageError:
        return
    assert message.header_bytes() == header
    assert len(message.payload) == message.n_bids * 16 + message.n_asks * 16 or message.kind != 1


@given(data=st.binary(max_size=400))
def test_garbage_is_no_record(data: bytes) -> None:
    index = SegmentIndex()
    index.extend(data)
    assert index.records == 0
    if any(data):
        try:
            assert messages(data) == []
        except JournalError:
            return
        # zeros at first and garbage behind them are not reported as records either
        raise AssertionError("garbage was read as records")


def test_the_checksum_is_xxh64() -> None:
    # values of the public specification's reference implementation
    assert checksum64(b"") == 0xEF46DB3751D8E999
    assert checksum64(b"abc") == 0x44BC2CF5AD770999


@given(data=st.binary(min_size=1, max_size=200), at=st.integers(0, 10**6), bit=st.integers(0, 7))
def test_the_checksum_sees_every_bit(data: bytes, at: int, bit: int) -> None:
    changed = bytearray(data)
    changed[at % len(data)] ^= 1 << bit
    assert checksum64(changed) != checksum64(data)
