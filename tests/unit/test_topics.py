"""Topic names: built, parsed, refused."""

import pytest

from coinspace.bus import topics
from coinspace.errors import MessageError


@pytest.mark.parametrize(
    ("words", "name"),
    [
        (("orderbook", "upbit", "BTC/KRW"), b"orderbook.upbit.BTC/KRW."),
        (("state", "binance", "ETH/USDT"), b"state.binance.ETH/USDT."),
        (("aggregate", "BTC"), b"aggregate.BTC."),
        (("heartbeat", "index-calculator"), b"heartbeat.index-calculator."),
    ],
)
def test_a_topic_reads_back(words: tuple[str, ...], name: bytes) -> None:
    assert topics.build(*words) == name
    parsed = topics.parse(name)
    assert parsed.kind == words[0]
    assert [word for word in parsed[1:] if word] == list(words[1:])


def test_the_closing_dot_keeps_prefixes_apart() -> None:
    assert not topics.build("aggregate", "BTCDOM").startswith(topics.build("aggregate", "BTC"))


@pytest.mark.parametrize(
    "words",
    [
        ("candle", "upbit", "BTC/KRW"),
        ("orderbook", "upbit"),
        ("index", "BTC", "KRW"),
        ("index", ""),
        ("ticker", "up.bit", "BTC/KRW"),
    ],
)
def test_invalid_topics_cannot_be_built(words: tuple[str, ...]) -> None:
    with pytest.raises(MessageError, match="expected"):
        topics.build(*words)


@pytest.mark.parametrize(
    "name", [b"", b".", b"orderbook.", b"orderbook.upbit.BTC/KRW", b"index.BTC.x.", b"index.\xff."]
)
def test_invalid_topics_cannot_be_parsed(name: bytes) -> None:
    with pytest.raises(MessageError, match="expected"):
        topics.parse(name)
