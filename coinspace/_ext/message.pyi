from typing import Any, Final, final

import numpy as np
from numpy.typing import NDArray
from typing_extensions import Buffer

ORDERBOOK: Final[int]
TICKER: Final[int]
TRADE: Final[int]
STATE: Final[int]
AGGREGATE: Final[int]
INDEX: Final[int]
HEARTBEAT: Final[int]
RATE: Final[int]
FACT: Final[int]
SNAPSHOT: Final[int]
REPEAT: Final[int]
SELL: Final[int]
REST: Final[int]
GROUPED: Final[int]
TOUCH: Final[int]
REPEATS_BITS: Final[int]
REPEATS_MOST: Final[int]
KIND_NAMES: Final[tuple[str, ...]]
WINDOWS: Final[tuple[str | None, ...]]
TICKER_NAMES: Final[tuple[str, ...]]

def encode_header(
    kind: int,
    *,
    flags: int = 0,
    n_bids: int = 0,
    n_asks: int = 0,
    payload_size: int = 0,
    epoch: int = 0,
    sequence: int = 0,
    exchange_ns: int = 0,
    received_ns: int = 0,
    published_ns: int = 0,
    id: int = 0,
) -> bytes: ...

@final
class Message:
    @staticmethod
    def decode(topic: bytes, header: Buffer, payload: Buffer) -> Message: ...
    @property
    def topic(self) -> bytes: ...
    @property
    def payload(self) -> memoryview: ...
    @property
    def version(self) -> int: ...
    @property
    def kind(self) -> int: ...
    @property
    def kind_name(self) -> str: ...
    @property
    def flags(self) -> int: ...
    @property
    def n_bids(self) -> int: ...
    @property
    def n_asks(self) -> int: ...
    @property
    def epoch(self) -> int: ...
    @property
    def sequence(self) -> int: ...
    @property
    def exchange_ns(self) -> int: ...
    @property
    def received_ns(self) -> int: ...
    @property
    def published_ns(self) -> int: ...
    @property
    def id(self) -> int: ...
    @property
    def exchange(self) -> str: ...
    @property
    def market(self) -> str: ...
    @property
    def window(self) -> str | None: ...
    @property
    def side(self) -> str: ...
    @property
    def bids(self) -> NDArray[np.float64]: ...
    @property
    def asks(self) -> NDArray[np.float64]: ...
    @property
    def values(self) -> NDArray[np.float64]: ...
    def json(self) -> Any: ...
    def header_bytes(self) -> bytes: ...
