from typing import Any, ClassVar, Self

import numpy as np
from numpy.typing import NDArray
from typing_extensions import Buffer

DEFAULT_CAPACITY: int
MOST_LEVELS: int
KIND_NAMES: tuple[str, ...]
CONTROL_NAMES: tuple[str, ...]
WINDOWS: tuple[str | None, ...]

class Parser:
    exchange: ClassVar[str]
    capacity: int
    kind: int
    exchange_ns: int
    snapshot: bool
    first_update_id: int
    final_update_id: int
    n_bids: int
    n_asks: int
    price: float
    size: float
    sell: bool
    trade_id: int
    window: int
    day_volume: float
    suspended: bool
    delisting: int
    flawed: int
    control: int
    malformed: int
    levels_dropped: int
    template_misses: int
    def __new__(cls, capacity: int = ..., *args: Any, **kwargs: Any) -> Self: ...
    def parse(self, frame: Buffer) -> int: ...
    def decode(self, frame: Buffer) -> list[dict[str, Any]]: ...
    def refusals(self) -> dict[str, int]: ...
    @property
    def symbol_name(self) -> str | None: ...
    @property
    def bids(self) -> NDArray[np.float64]: ...
    @property
    def asks(self) -> NDArray[np.float64]: ...
    @property
    def reason(self) -> str: ...
    @property
    def offset(self) -> int: ...
