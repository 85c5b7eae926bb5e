"""Which asset an exchange's base name stands for, and since when: what may be summed.

A name means the asset of the same name unless an entry says otherwise. Entries are dated, because
names are given again: the book of a day belongs to the asset that the name meant on that day.
Sources: the exchanges' listing notices; ccxt's lists of common currencies for the collisions.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime

OPEN_NS = 2**63 - 1


def day_ns(text: str) -> int:
    """Return the beginning of a UTC day, `2022-05-28`, in ns."""
    return int(datetime.fromisoformat(text).replace(tzinfo=UTC).timestamp()) * 1_000_000_000


@dataclass(frozen=True, slots=True)
class Identity:
    """What a base name means on one exchange from `from_ns` until before `to_ns`.

    multiplier: units of the asset in one unit of the name (1000SATS is 1000 SATS). Prices are
    divided and sizes multiplied by it. exchange: `*` = all.
    """

    exchange: str
    name: str
    asset: str
    multiplier: float = 1.0
    from_ns: int = 0
    to_ns: int = OPEN_NS


REGISTRY: tuple[Identity, ...] = (
    # same letters, other coin
    Identity("upbit", "TON", "TOKAMAK"),
    Identity("bithumb", "ALT", "ARCHLOOT"),
    # LUNA was given to the new chain on 2022-05-28; the old one has been LUNC since
    Identity("*", "LUNA", "LUNC", 1.0, 0, day_ns("2022-05-28")),
    # names that hold a number of units
    Identity("binance", "1000SATS", "SATS", 1000.0),
    Identity("binance", "1000CAT", "CAT", 1000.0),
    Identity("binance", "1000CHEEMS", "CHEEMS", 1000.0),
    Identity("binance", "1MBABYDOGE", "BABYDOGE", 1_000_000.0),
)


def identity(
    exchange: str, name: str, at_ns: int, registry: tuple[Identity, ...] = REGISTRY
) -> Identity:
    """Return what a base name means on an exchange at a time; an entry of the exchange goes
    first.
    """
    for where in (exchange, "*"):
        for entry in registry:
            if (
                entry.exchange == where
                and entry.name == name
                and entry.from_ns <= at_ns < entry.to_ns
            ):
                return entry
    return Identity(exchange, name, name)


def is_renamed(exchange: str, name: str, registry: tuple[Identity, ...] = REGISTRY) -> bool:
    """Tell whether a base name ever means something else than one unit of itself."""
    return any(one.name == name and one.exchange in (exchange, "*") for one in registry)


def assets_of(
    exchange: str, name: str, registry: tuple[Identity, ...] = REGISTRY
) -> tuple[str, ...]:
    """Return every asset that a base name means at some time, in the order of their names."""
    entries = [one for one in registry if one.name == name and one.exchange in (exchange, "*")]
    times = {0, *(one.from_ns for one in entries), *(one.to_ns for one in entries)} - {OPEN_NS}
    return tuple(sorted({identity(exchange, name, at_ns, registry).asset for at_ns in times}))


def names_of(
    exchange: str, asset: str, registry: tuple[Identity, ...] = REGISTRY
) -> tuple[str, ...]:
    """Return every base name that means an asset on an exchange, at least at times."""
    names = {asset, *(one.name for one in registry if one.asset == asset)}
    return tuple(sorted(one for one in names if asset in assets_of(exchange, one, registry)))


def summable(exchange: str, name: str, asset: str, at_ns: int) -> float:
    """Return the multiplier with which a name counts towards an asset, 0 = it is another one."""
    found = identity(exchange, name, at_ns)
    return found.multiplier if found.asset == asset else 0.0
