"""Whether the indices tick and have values, by the monotonic clock, for the health file."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from coinspace.clock import SECOND_NS, Clock, monotonic_ns
from coinspace.method.record import IndexRecord

# asset -> seconds for which its index may be null before it counts as failed
Allowed = Callable[[str], float]


class Pulse:
    """When each index had its last tick and its last value.

    Args: allowed_s: asset -> seconds without a value after which its index counts as failed.
    """

    def __init__(
        self, assets: Iterable[str], allowed_s: Allowed, clock: Clock = monotonic_ns
    ) -> None:
        self._clock = clock
        self._allowed_s = allowed_s
        self._allowed_ns: dict[str, int] = {}
        self._ticked_ns: dict[str, int] = {}
        self._valued_ns: dict[str, int] = {}
        self._reason: dict[str, str | None] = {}
        for asset in assets:
            self.add(asset)

    def add(self, asset: str) -> None:
        """Watch one more index from now on."""
        self._allowed_ns[asset] = int(self._allowed_s(asset) * SECOND_NS)
        self._ticked_ns[asset] = self._valued_ns[asset] = self._clock()
        self._reason[asset] = None

    def tick(self, record: IndexRecord) -> None:
        """Take a record."""
        now, asset = self._clock(), record.asset
        self._ticked_ns[asset] = now
        self._reason[asset] = record.reason
        if record.value is not None:
            self._valued_ns[asset] = now

    def problem(self) -> str | None:
        """Return which indices have failed and why, None = none has failed."""
        now = self._clock()
        failed = {
            asset: (now - self._valued_ns[asset]) // SECOND_NS
            for asset, allowed_ns in self._allowed_ns.items()
            if now - self._valued_ns[asset] >= allowed_ns
        }
        if not failed:
            return None
        shown = ", ".join(
            f"{asset} for {seconds} s ({self._reason[asset] or 'no tick'})"
            for asset, seconds in list(failed.items())[:5]
        )
        more = " …" if len(failed) > 5 else ""
        return f"no index value of {shown}{more}: see the states of its venues and collectors"

    def counters(self) -> dict[str, int | float]:
        """Return, for each asset, the age of the last tick and the duration of the nulls."""
        now = self._clock()
        found: dict[str, int | float] = {}
        for asset in self._allowed_ns:
            ticked_ns, valued_ns = self._ticked_ns[asset], self._valued_ns[asset]
            label = f'{{asset="{asset}"}}'
            found[f"index_tick_age_s{label}"] = round((now - ticked_ns) / SECOND_NS, 1)
            null = valued_ns < ticked_ns or self._reason[asset] is not None
            found[f"index_null_age_s{label}"] = (
                round((now - valued_ns) / SECOND_NS, 1) if null else 0
            )
        return found
