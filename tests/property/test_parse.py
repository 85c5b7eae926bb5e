"""Any rewriting of a valid frame gives the same outcome in the compiled parser and in its twin."""

from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from coinspace._ext.binance import BinanceParser
from coinspace._ext.bithumb import BithumbParser
from coinspace._ext.upbit import UpbitParser
from tests.fuzz import mutate, twin

MARKETS = {"BTCUSDT": "BTC/USDT"}
PARSERS = {
    "upbit": UpbitParser(8),
    "bithumb": BithumbParser(8),
    "binance": BinanceParser(8, markets=MARKETS),
}
EXCHANGES = st.sampled_from(list(PARSERS))
RANDOM = st.randoms(use_true_random=False)


@settings(deadline=None, max_examples=300)
@given(EXCHANGES, RANDOM)
def test_rewritten_frames(exchange: str, rng: Random) -> None:
    frame = mutate.vary(rng, mutate.base(exchange, rng))
    got = PARSERS[exchange].decode(frame)
    assert twin.shown(got) == twin.shown(twin.decode(exchange, frame, MARKETS, 8))


@settings(deadline=None, max_examples=200)
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


@settings(deadline=None, max_examples=300)
@given(EXCHANGES, st.binary(max_size=200))
def test_any_bytes_have_an_outcome(exchange: str, frame: bytes) -> None:
    messages = PARSERS[exchange].decode(frame)
    assert messages
    assert twin.shown(messages) == twin.shown(twin.decode(exchange, frame, MARKETS, 8))


@pytest.mark.parametrize("exchange", PARSERS)
def test_a_parser_is_the_same_after_any_frame(exchange: str) -> None:
    # state that a frame leaves behind must not reach the next one
    rng = Random(5)
    used = PARSERS[exchange]
    for _ in range(2000):
        used.decode(mutate.frame(exchange, rng))
        frame = mutate.base(exchange, rng)
        fresh = type(used)(8, markets=MARKETS) if exchange == "binance" else type(used)(8)
        assert used.decode(frame) == fresh.decode(frame)
