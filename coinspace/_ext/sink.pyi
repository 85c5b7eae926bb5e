from collections.abc import Callable
from typing import Any

from numpy.typing import NDArray
from typing_extensions import Buffer

from coinspace._ext.latency import Latency
from coinspace._ext.message import Message

TOPIC_LIMIT: int

class Topic:
    def __init__(self, name: bytes, number: int = 0) -> None: ...
    @property
    def name(self) -> bytes: ...
    @property
    def sequence(self) -> int: ...
    @property
    def kind(self) -> int: ...

class Sink:
    quiet: bool
    def __init__(self, epoch_ns: int, *, clock: Callable[[], int] | None = None) -> None: ...
    @property
    def epoch(self) -> int: ...
    @property
    def published(self) -> int: ...
    @property
    def transit(self) -> Latency: ...
    @property
    def publishing(self) -> Latency: ...
    @property
    def sequences(self) -> dict[bytes, int]: ...
    def topic(self, name: bytes) -> Topic: ...
    def publish(
        self,
        topic: Topic,
        kind: int,
        payload: Buffer | NDArray[Any],
        *,
        flags: int = 0,
        n_bids: int = 0,
        n_asks: int = 0,
        exchange_ns: int = 0,
        received_ns: int = 0,
        id: int = 0,
    ) -> int: ...

class ListSink(Sink):
    def __init__(self, epoch_ns: int = 1, *, clock: Callable[[], int] | None = None) -> None: ...
    @property
    def messages(self) -> list[Message]: ...
    def clear(self) -> None: ...
