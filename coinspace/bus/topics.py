"""Topic names: `KIND.EXCHANGE.MARKET.`, `aggregate.BTC.`, `index.BTC.`, `heartbeat.PROCESS.`.

A rate has a source in the place of the exchange: `rate.dunamu.USD/KRW.`.

The closing dot keeps `aggregate.BTC.` from matching `aggregate.BTCDOM.`; any prefix subscribes.
"""

from __future__ import annotations

from typing import NamedTuple

from coinspace._ext.message import KIND_NAMES
from coinspace.errors import MessageError

# topics of one exchange's market; topics of other kinds have one word after the kind
VENUE_KINDS = ("orderbook", "ticker", "trade", "state", "rate", "fact")
HEARTBEATS = b"heartbeat."


class TopicName(NamedTuple):
    """The words of a topic; `name` is the asset or process of a topic without a market."""

    kind: str
    exchange: str = ""
    market: str = ""
    name: str = ""


def build(kind: str, *words: str) -> bytes:
    """Return a topic: `build("orderbook", "upbit", "BTC/KRW")` or `build("index", "BTC")`.

    Raises: MessageError for an unknown kind, a wrong number of words or a dot within a word.
    """
    expected = 2 if kind in VENUE_KINDS else 1
    if kind not in KIND_NAMES[1:]:
        raise MessageError(f"topic kind: expected {', '.join(KIND_NAMES[1:])}, was {kind!r}")
    if len(words) != expected or not all(words) or any("." in word for word in words):
        raise MessageError(
            f"topic of kind {kind!r}: expected {expected} words without dots, was {words!r}"
        )
    return ".".join((kind, *words, "")).encode()


def parse(topic: bytes) -> TopicName:
    """Return the words of a topic.

    Raises: MessageError when `build` cannot have made the topic.
    """
    try:
        kind, *words = topic.decode().split(".")
    except UnicodeDecodeError:
        raise MessageError(f"topic: expected UTF-8, was {topic!r}") from None
    if not words or words.pop() or build(kind, *words) != topic:
        raise MessageError(f"topic: expected KIND.EXCHANGE.MARKET., was {topic!r}")
    if kind in VENUE_KINDS:
        return TopicName(kind, exchange=words[0], market=words[1])
    return TopicName(kind, name=words[0])
