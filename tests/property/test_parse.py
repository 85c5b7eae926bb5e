"""Any rewritten valid frame has the same outcome in the compiled parser and in its twin."""

from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks import frames as generated
from coinspace._ext.binance import BinanceParser
from coinspace._ext.bithumb import BithumbParser
from coinspace._ext.coinbase import CoinbaseParser
from coinspace._ext.coinone import CoinoneParser
from coinspace._ext.upbit import UpbitParser
from tests.fuzz import mutate, twin

MARKETS = {"BTCUSDT": "BTC/USDT"}
PARSERS = {
    "upbit": UpbitParser(8),
    "bithumb": BithumbParser(8),
    "binance": BinanceParser(8, markets=MARKETS),
    "coinone": CoinoneParser(8),
    "coinbase": CoinbaseParser(8),
}
EXCHANGES = st.sampled_from(list(PARSERS))
RANDOM = st.randoms(use_true_random=False)


@settings(max_examples=300)
@given(EXCHANGES, RANDOM)
def test_rewritten_frames(exchange: str, rng: Random) -> None:
    frame = mutate.vary(rng, mutate.base(exchange, rng))
    got = PARSERS[exchange].decode(frame)
    assert twin.shown(got) == twin.shown(twin.decode(exchange, frame, MARKETS, 8))


@settings(max_examples=200)
@given(EXCHANGES, RANDOM, st.data())
def test_whitespace_and_key_order_change_nothing(
    exchange: str, rng: Random, data: st.DataObject
) -> None:
    frame = mutate.base(exchange, rng)
    tree = mutate.tree(frame)
    for one in mutate.objects(tree):
        rng.shuffle(one)
    rewritten = mutate.written(rng, tree, plain=data.draw(st.booleans())).encode()
    parser = PARSERS[exchange]
    assert twin.shown(parser.decode(rewritten)) == twin.shown(parser.decode(frame))


@settings(max_examples=200)
@given(EXCHANGES, RANDOM)
def test_frames_like_the_last_one(exchange: str, rng: Random) -> None:
    # the keys and what their values look like are expected then: other values, other lengths, other
    # endings in the same places
    parser = PARSERS[exchange]
    frame = mutate.base(exchange, rng)
    tree = mutate.tree(frame)
    for _ in range(8):
        parser.decode(frame)
        other = mutate.written(rng, mutate.change(rng, tree), plain=rng.random() < 0.8).encode()
        if rng.random() < 0.5:
            other = mutate.damage(rng, other)
        expected = twin.shown(twin.decode(exchange, other, MARKETS, 8))
        # once after the earlier frame, once after itself
        assert twin.shown(parser.decode(other)) == expected
        assert twin.shown(parser.decode(other)) == expected


NUMBERS = st.from_regex(
    r"-?(0|[1-9][0-9]{0,20})(\.[0-9]{1,20})?([eE][+-]?[0-9]{1,3})?", fullmatch=True
)


@settings(max_examples=500)
@given(NUMBERS, NUMBERS, st.sampled_from(',} 0.e-"\\\né'))
def test_values_in_place_of_numbers(before: str, text: str, odd: str) -> None:
    # read and skipped, far from the frame's end and right before it
    places = ["x", "trade_price", "y"]
    spoilt = before.replace(".", odd)
    for key in places:
        parser = UpbitParser()
        for value in (before, before, text + odd, text, before, f'"{spoilt}"', f'"{before}"'):
            x, price, y = (value if key == place else "1" for place in places)
            frame = f'{{"type":"ticker","x":{x},"code":"A","trade_price":{price},"y":{y}}}'.encode()
            got = parser.decode(frame)
            assert twin.shown(got) == twin.shown(twin.decode("upbit", frame, MARKETS, 8))


@pytest.mark.parametrize(
    "kind", [kind for kind in generated.KINDS if kind.endswith(("trade", "ticker"))]
)
def test_any_byte_where_fields_are_expected(kind: str) -> None:
    exchange = kind.split("-")[0]
    parser = PARSERS[exchange]
    frame = generated.frames(kind, 1)[0]
    for at in range(len(frame)):
        for odd in (b"", b'"', b"\\", b",", b"}", b"0", b".", b"e", b" ", b"\0", b"\xff"):
            parser.decode(frame)
            changed = frame[:at] + odd + frame[at + 1 :]
            expected = twin.shown(twin.decode(exchange, changed, MARKETS, 8))
            assert twin.shown(parser.decode(changed)) == expected, changed


@settings(max_examples=300)
@given(EXCHANGES, st.binary(max_size=200))
def test_any_bytes_have_an_outcome(exchange: str, frame: bytes) -> None:
    messages = PARSERS[exchange].decode(frame)
    assert messages
    assert twin.shown(messages) == twin.shown(twin.decode(exchange, frame, MARKETS, 8))


@pytest.mark.parametrize("exchange", PARSERS)
def test_a_parser_is_the_same_after_any_frame(exchange: str) -> None:
    # state of one frame must not affect the next one
    rng = Random(5)
    used = PARSERS[exchange]
    for _ in range(2000):
        used.decode(mutate.frame(exchange, rng))
        frame = mutate.base(exchange, rng)
        fresh = type(used)(8, markets=MARKETS) if exchange == "binance" else type(used)(8)
        assert used.decode(frame) == fresh.decode(frame)
