"""What the routes share."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from coinspace.bus.beats import RemoteHealth
from coinspace.clock import MILLISECOND_NS, Clock
from coinspace.config import Settings
from coinspace.constituents import collected, named
from coinspace.endpoint.history.bulk import Downloads
from coinspace.endpoint.http.problem import Problem
from coinspace.endpoint.live.hub import Hub
from coinspace.endpoint.live.premium import PremiumTable
from coinspace.endpoint.live.state import Live
from coinspace.market import as_named, exchange_as_named
from coinspace.storage.read.pool import Database


@dataclass
class Context:
    """Settings and live objects of one endpoint.

    Attributes: dashboard (folder of the built page), downloads (whole ranges being sent), settled
    ((asset, interval) -> time until which candles are known to be stored, ns; never decreases),
    states (channel -> first event's time of making and data), metrics (time of making, monotonic
    ns, and text), premiums (of every asset, with their statistics), remote (heartbeats of processes
    on other hosts, None on a single host), follow (called with exchange and market of each
    request).
    """

    settings: Settings
    live: Live
    hub: Hub
    database: Database
    clock: Clock
    dashboard: Path
    downloads: Downloads = field(init=False)
    settled: dict[tuple[str, str], int] = field(init=False, default_factory=dict)
    states: dict[str, tuple[float, bytes | None]] = field(init=False, default_factory=dict)
    _named: dict[str, frozenset[str]] = field(init=False, default_factory=dict)
    metrics: tuple[int, bytes] = field(init=False, default=(0, b""))
    premiums: PremiumTable = field(init=False)
    remote: RemoteHealth | None = field(init=False, default=None)
    follow: Callable[[str, str], None] = field(init=False, default_factory=lambda: _nothing)

    def __post_init__(self) -> None:
        self.premiums = PremiumTable(self.live, self.settings, self.clock)
        chosen = self.settings.endpoint
        self.downloads = Downloads(chosen.downloads, chosen.download_timeout_s)

    def now_ms(self) -> int:
        """Wall-clock time in ms."""
        return self.clock() // MILLISECOND_NS

    @property
    def stale_ms(self) -> int:
        """Age in ms above which a value counts as stale."""
        return self.settings.endpoint.stale_ms

    @property
    def depths(self) -> dict[str, float]:
        """Published levels per side of each exchange, which are part of the parameter hash."""
        return self.settings.depths

    def decimals(self, asset: str) -> int | None:
        """Return the decimals of an asset's published value, None = by significant digits."""
        return self.settings.index.parameters_of(asset).decimals

    def check_asset(self, asset: str) -> str:
        """Return the asset in upper case. Raises: Problem 404 for an asset without an index."""
        found = as_named(asset)
        if found not in self.settings.index.assets:
            known = ", ".join(self.settings.index.assets)
            raise Problem("unknown-asset", f"asset: expected one of {known}, was {asset[:40]!r}")
        return found

    def check_market(self, exchange: str, market: str) -> tuple[str, str]:
        """Return the exchange in lower case and the market in upper case.

        Raises: Problem 404 for a market that is not collected.
        """
        exchange, found = self.check_exchange(exchange), as_named(market)
        if not self._has(exchange, found):
            markets = self.markets(exchange)
            raise Problem(
                "unknown-market",
                f"market: expected one of {', '.join(markets[:20])} on {exchange},"
                f" was {market[:40]!r}",
            )
        self.follow(exchange, found)
        return exchange, found

    def _has(self, exchange: str, market: str) -> bool:
        """Return whether a market is one of `markets`, at once: a stream names hundreds of them."""
        live, key = self.live, (exchange, market)
        if key in live.states or key in live.books or key in live.tickers:
            return True
        if exchange not in self._named:
            self._named[exchange] = frozenset(named(self.settings, exchange))
        return market in self._named[exchange] or market in self.markets(exchange)

    def check_exchange(self, exchange: str) -> str:
        """Return the exchange in lower case.

        Raises: Problem 404 for an exchange that is not configured.
        """
        found = exchange_as_named(exchange)
        if found not in self.settings.exchanges:
            known = ", ".join(self.settings.exchanges)
            raise Problem(
                "unknown-market", f"exchange: expected one of {known}, was {exchange[:40]!r}"
            )
        return found

    def markets(self, exchange: str) -> list[str]:
        """Return the markets of an exchange: those configured by name, and those of patterns.

        Until the collector has reported its markets, patterns bring in markets of the index only.
        """
        listed = named(self.settings, exchange)
        live = self.live
        announced = {market for name, market in live.states if name == exchange}
        seen = announced.union(
            market for name, market in (*live.books, *live.tickers) if name == exchange
        )
        if not announced:
            seen.update(collected(self.settings, exchange))
        return listed + sorted(seen.difference(listed))

    def all_markets(self) -> list[tuple[str, str]]:
        """Return every (exchange, market)."""
        return [(name, one) for name in self.settings.exchanges for one in self.markets(name)]


def _nothing(exchange: str, market: str) -> None:
    """Without a bus there is nothing to follow."""
