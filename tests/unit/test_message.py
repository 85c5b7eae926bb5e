"""The bus message's header and views."""

import numpy as np
import pytest

from coinspace._ext import message
from coinspace._ext.message import Message, encode_header
from coinspace.errors import MessageError

TOPIC = b"orderbook.upbit.BTC/KRW."


def book(n_bids: int, n_asks: int, **header: int) -> Message:
    payload = np.arange(2.0 * (n_bids + n_asks))
    head = encode_header(
        message.ORDERBOOK,
        n_bids=n_bids,
        n_asks=n_asks,
        payload_size=payload.nbytes,
        **header,
    )
    return Message.decode(TOPIC, head, payload.data)


def test_every_header_field_comes_back() -> None:
    given = {
        "flags": 66,
        "epoch": 1_700_000_000_000_000_001,
        "sequence": 2**40,
        "exchange_ns": 3,
        "received_ns": 4,
        "published_ns": 5,
        "id": 2**62 + 1,
    }
    decoded = book(2, 3, **given)
    assert {name: getattr(decoded, name) for name in given} == given
    assert (decoded.version, decoded.kind_name) == (1, "orderbook")
    assert (decoded.exchange, decoded.market) == ("upbit", "BTC/KRW")
    assert Message.decode(TOPIC, decoded.header_bytes(), decoded.payload).sequence == 2**40


def test_sides_are_views_on_the_payload() -> None:
    decoded = book(2, 3)
    assert decoded.bids.tolist() == [[0, 1], [2, 3]]
    assert decoded.asks.tolist() == [[4, 5, 6], [7, 8, 9]]
    assert np.shares_memory(decoded.bids, np.frombuffer(decoded.payload))


@pytest.mark.parametrize(("n_bids", "n_asks"), [(0, 0), (0, 4), (4, 0)])
def test_empty_sides(n_bids: int, n_asks: int) -> None:
    decoded = book(n_bids, n_asks)
    assert decoded.bids.shape == (2, n_bids)
    assert decoded.asks.shape == (2, n_asks)


def broken(**change: int) -> tuple[bytes, bytes]:
    head = bytearray(encode_header(message.TRADE, payload_size=16))
    for at, value in change.items():
        head[int(at[1:])] = value
    return bytes(head), bytes(16)


@pytest.mark.parametrize(
    ("header", "payload", "text"),
    [
        (*broken(_0=2), "version: expected 1, was 2"),
        (*broken(_1=0), "kind: expected 1 to 9, was 0"),
        (*broken(_1=10), "kind: expected 1 to 9, was 10"),
        (*broken(_12=17), "expected 17 bytes, was 16"),
        (*broken(_1=1), "expected 0 bytes for its kind, was 16"),
        (*broken(_1=2), "expected 88 bytes for its kind, was 16"),
        (b"", b"", "header size: expected 64 bytes, was 0"),
        (broken()[0] + b"x", b"", "header size: expected 64 bytes, was 65"),
    ],
)
def test_damaged_messages_are_refused(header: bytes, payload: bytes, text: str) -> None:
    with pytest.raises(MessageError, match=text):
        Message.decode(TOPIC, header, payload)


def test_unknown_kind_is_not_encoded() -> None:
    with pytest.raises(MessageError, match="expected 1 to 9, was 10"):
        encode_header(10)
