"""The aggregate's format on the bus: decoding returns what was encoded and refuses all else."""

from __future__ import annotations

import random

import numpy as np
import orjson
import pytest

from coinspace._ext.curve import Curve
from coinspace._ext.ladder import Ladder, VenueBook
from coinspace.errors import MessageError
from coinspace.method.aggregate import Aggregate, FxFacts, VenueFacts, decode, encode


def facts(name: str) -> VenueFacts:
    return VenueFacts(name, "binance", "BTC/USDT", "GL", "USDT", bid=99.0, ask=101.5, epoch=7)


def ladder(counts: list[tuple[int, int]]) -> Ladder:
    """Return a ladder of venues with given numbers of bids and asks."""
    books: list[VenueBook | None] = []
    for i, (n_bids, n_asks) in enumerate(counts):
        book = VenueBook()
        book.load(
            np.array([100.0 - i / 8 - np.arange(n_bids), np.full(n_bids, 1.0 + i)]),
            np.array([101.0 + i / 8 + np.arange(n_asks), np.full(n_asks, 2.0 + i)]),
        )
        books.append(book)
    found = Ladder()
    found.merge(books, [1.0] * len(books))
    return found


def aggregate(counts: list[tuple[int, int]]) -> Aggregate:
    venues = [facts(f"v{i}") for i in range(len(counts))]
    fx = FxFacts(1400.0, "ok", {"v1": "frozen"}, ["v1"], {"v0": 1.0})
    ladders = {"composite": ladder(counts), "KRW": ladder([])}
    return Aggregate("BTC", 5, venues, fx, ladders, 1390.0, venues[:1])


@pytest.mark.parametrize("counts", [[(3, 4), (1, 2)], [(0, 5)], [(0, 0)], [], [(30, 1)] * 7])
def test_a_decoded_aggregate_equals_the_encoded_one(counts: list[tuple[int, int]]) -> None:
    given = aggregate(counts)
    payload, n_bids, n_asks = encode(given)
    assert (n_bids, n_asks) == (sum(b for b, _ in counts), sum(a for _, a in counts))
    assert len(payload) % 8 == 0
    found = decode(payload, epoch=3, sequence=4)
    assert (found.epoch, found.sequence) == (3, 4)
    assert (found.asset, found.ts_ns, found.usd_krw) == ("BTC", 5, 1390.0)
    assert (found.venues, found.fx) == (given.venues, given.fx)
    assert found.fx_venues == given.fx_venues
    assert list(found.ladders) == ["composite", "KRW"]
    for name, one in given.ladders.items():
        for side in range(2):
            for column in range(3):
                expected = one.side_copy(side)[column]
                assert np.array_equal(found.ladders[name].side_copy(side)[column], expected)
    assert encode(found)[0] == payload


def test_a_mutilated_payload_is_refused() -> None:
    payload = encode(aggregate([(3, 4), (1, 2)]))[0]
    draw = random.Random(5)
    for size in range(len(payload)):
        with pytest.raises(MessageError):
            decode(payload[:size])
    for _ in range(2000):
        changed = bytearray(payload)
        for _ in range(draw.randint(1, 4)):
            changed[draw.randrange(len(changed))] = draw.randrange(256)
        try:
            found = decode(bytes(changed))
        except MessageError:
            continue
        # a payload that still decodes can be computed
        used = np.ones(len(found.venues), dtype=np.uint8)
        for one in found.ladders.values():
            curve = Curve(0.005)
            curve.compute(one, used)
            curve.segments()


@pytest.mark.parametrize("levels", [[10**30, 0], [-1, 0], [2**62, 2**62], [1.5, 0], ["x", 0]])
def test_impossible_sizes_are_refused(levels: list[object]) -> None:
    payload = encode(aggregate([(1, 1)]))[0]
    size = int.from_bytes(payload[:8], "little")
    body = orjson.loads(payload[8 : 8 + size])
    text = orjson.dumps({**body, "ladders": []})
    written = text[:-3] + b'[["composite",%s]]}' % str(levels)[1:-1].replace("'", '"').encode()
    orjson.loads(written.replace(str(10**30).encode(), b"1"))
    head = len(written).to_bytes(8, "little") + written + bytes(-len(written) % 8)
    with pytest.raises(MessageError, match="aggregate payload: expected facts and ladders"):
        decode(head + payload[8 + size + -size % 8 :])


def test_venues_that_do_not_exist_are_refused() -> None:
    one = ladder([(2, 2), (1, 1)])
    packed = one.pack()
    assert Ladder().unpack(packed, 0, 3, 3, 2) == len(packed)
    with pytest.raises(ValueError, match="venues of a ladder: expected 0 to 0"):
        Ladder().unpack(packed, 0, 3, 3, 1)
    with pytest.raises(ValueError, match="ladder of 3 and 4 levels at 0"):
        Ladder().unpack(packed, 0, 3, 4, 2)
    with pytest.raises(ValueError, match="used: expected 2 venues, was 1"):
        Curve(0.005).compute(one, np.ones(1, dtype=np.uint8))
