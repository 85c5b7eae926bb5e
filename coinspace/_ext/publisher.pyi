from collections.abc import Callable

from coinspace._ext.journal import JournalWriter
from coinspace._ext.sink import Sink

class ZmqSink(Sink):
    def __init__(
        self,
        epoch_ns: int,
        handle: int,
        *,
        journal: JournalWriter | None = None,
        clock: Callable[[], int] | None = None,
    ) -> None: ...
    @property
    def dropped(self) -> int: ...
    def take_over(self, epoch_ns: int, journal: JournalWriter | None = None) -> None: ...
    def detach(self) -> None: ...
