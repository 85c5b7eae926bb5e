"""Outages: missed ticks in a row, and their `not_computed` records.

A long outage needs no more memory than a short one: its records are made when they are stored.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from coinspace.clock import MILLISECOND_NS
from coinspace.method.parameters import METHOD_VERSION
from coinspace.method.record import IndexRecord

NOT_COMPUTED = "not_computed"


@dataclass(frozen=True, slots=True)
class Outage:
    """The missed ticks of one index, and the method's memory, which does not change meanwhile.

    Attributes:
        first_ns, last_ns: first and last missed tick, multiples of `step_ns`.
        failed_ns: time from which the index counts as failed.
    """

    asset: str
    first_ns: int
    last_ns: int
    step_ns: int
    flagged: tuple[str, ...] = ()
    split: bool = False
    failed_ns: int = 0
    parameter_hash: str = ""

    def __len__(self) -> int:
        return (self.last_ns - self.first_ns) // self.step_ns + 1

    def records(self, first_ns: int) -> Iterator[IndexRecord]:
        """Yield the record of each tick from `first_ns` on."""
        for ts_ns in range(first_ns, self.last_ns + 1, self.step_ns):
            yield IndexRecord(
                asset=self.asset,
                ts_ms=milliseconds(ts_ns),
                status="null",
                reason=NOT_COMPUTED,
                flagged=list(self.flagged),
                split=self.split,
                failed=ts_ns >= self.failed_ns,
                method_version=METHOD_VERSION,
                parameter_hash=self.parameter_hash,
            )


def milliseconds(ts_ns: int) -> float | int:
    """Return a tick's time in ms, as an integer where possible."""
    if ts_ns % MILLISECOND_NS == 0:
        return ts_ns // MILLISECOND_NS
    return ts_ns / MILLISECOND_NS
