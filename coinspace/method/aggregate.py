"""The input of one tick (facts of every venue, FX, merged ladders), and its format on the bus.

Payload of an `aggregate.ASSET.` message: uint64 size of the JSON part, the JSON part (`Facts`)
padded to 8 bytes, then per ladder `bid prices, bid sizes, ask prices, ask sizes` (float64) and
`bid venues, ask venues` (int32, each padded to 8 bytes). The first ladder is the composite's, in
index currency. The other ladders have the name of their currency and contain quoted prices. Levels
are sorted by price, then venue; equal prices are not summed. Venue indices point into `venues`.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import msgspec
from msgspec import UNSET, Struct, UnsetType

from coinspace._ext.ladder import Ladder
from coinspace.clock import MILLISECOND_NS
from coinspace.errors import MessageError
from coinspace.method.reference import ReferenceFacts

COMPOSITE = "composite"


class VenueFacts(Struct, array_like=True, gc=False):
    """One venue at a tick, judged without the other venues.

    Attributes:
        reason: why the venue cannot be used, None = usable; `no_fx` only where nothing else is
            wrong.
        native: usable in its own currency, with or without a rate.
        fx: units of quote per unit of index currency, None = no rate.
        bid, ask: best prices in quote currency, None = side empty.
        received_ns: last proof of life, 0 = never. changed_ns: last change of the book.
        publisher, epoch, sequence: the message that the book came from.
    """

    name: str
    exchange: str
    market: str
    region: str
    quote: str
    reason: str | None = None
    native: bool = False
    fx: float | None = None
    bid: float | None = None
    ask: float | None = None
    received_ns: int = 0
    changed_ns: int = 0
    publisher: str = ""
    epoch: int = 0
    sequence: int = 0
    n_bids: int = 0
    n_asks: int = 0

    @property
    def native_mid(self) -> float | None:
        """Mid in quote currency."""
        if self.bid is None or self.ask is None:
            return None
        # halves first: the sum of two huge prices would overflow float64
        return 0.5 * self.bid + 0.5 * self.ask

    @property
    def mid(self) -> float | None:
        """Mid in index currency."""
        if self.fx is None or self.bid is None or self.ask is None:
            return None
        return 0.5 * (self.bid / self.fx) + 0.5 * (self.ask / self.fx)

    def age_ms(self, ts_ns: int) -> float | int | None:
        """Time since the last proof of life, None = never."""
        if not self.received_ns:
            return None
        age = ts_ns - self.received_ns
        return age // MILLISECOND_NS if age % MILLISECOND_NS == 0 else age / MILLISECOND_NS


class GroupFacts(Struct, array_like=True, gc=False):
    """First bid and first ask of a venue that are price groups, in quote currency; None = none."""

    bid: float | None
    ask: float | None

    def begin(self, mid: float | None) -> float | None:
        """Return the distance from the mid at which groups begin, as a share of the mid."""
        found = [abs(one / mid - 1) for one in (self.bid, self.ask) if one and mid]
        return min(found, default=None)


class FxFacts(Struct, gc=False):
    """A rate in use, KRW or USD per USDT, and its status (`ok`, `held`, `suspect`, `none`).

    `reasons`: venue -> why it does not count (the reason in its facts, frozen or deviating).
    `doubted`: the suspect rate of the books when no rate is usable, because they are flagged or a
    jump is not confirmed. Only a premium marked unjudged uses it, never a price.
    """

    rate: float | None = None
    status: str = "none"
    reasons: dict[str, str] = {}
    flagged: list[str] = []
    shares: dict[str, float] = {}
    doubted: float | None = None


class Facts(Struct, gc=False):
    """The JSON part of the payload; `ladders`: name, bid levels and ask levels of each.

    `usd_krw`: KRW per USD given beside the books, None = as in `reference`. `dollar`: of the
    USDT/USD books, absent where none is collected. `fx_venues`: the venues of both rates.
    """

    asset: str
    ts_ns: int
    usd_krw: float | None
    venues: list[VenueFacts]
    fx: FxFacts
    fx_venues: list[VenueFacts]
    ladders: list[tuple[str, int, int]]
    reference: ReferenceFacts | UnsetType = UNSET
    dollar: FxFacts | UnsetType = UNSET
    groups: dict[str, GroupFacts] | UnsetType = UNSET


@dataclass(slots=True)
class Aggregate:
    """All input of the calculation of one index at one tick."""

    asset: str
    ts_ns: int
    venues: list[VenueFacts]
    fx: FxFacts
    ladders: dict[str, Ladder]
    usd_krw: float | None = None
    fx_venues: list[VenueFacts] = field(default_factory=list)
    epoch: int = 0
    sequence: int = 0
    # of the sources of USD/KRW, None = none is configured
    reference: ReferenceFacts | None = None
    # USD per USDT, None = no USDT/USD book is collected
    dollar: FxFacts | None = None
    # venue -> its price groups, without venues that have none
    groups: dict[str, GroupFacts] = field(default_factory=dict)


_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(Facts).decode


def _pad(n: int) -> int:
    return -n % 8


def encode(aggregate: Aggregate) -> tuple[bytes, int, int]:
    """Return the payload of an aggregate message, and the composite's levels per side."""
    counts = [(name, one.n_bids, one.n_asks) for name, one in aggregate.ladders.items()]
    facts = _encode(
        Facts(
            aggregate.asset,
            aggregate.ts_ns,
            aggregate.usd_krw,
            aggregate.venues,
            aggregate.fx,
            aggregate.fx_venues,
            counts,
            UNSET if aggregate.reference is None else aggregate.reference,
            UNSET if aggregate.dollar is None else aggregate.dollar,
            aggregate.groups or UNSET,
        )
    )
    parts = [len(facts).to_bytes(8, "little"), facts, bytes(_pad(len(facts)))]
    parts += [ladder.pack() for ladder in aggregate.ladders.values()]
    _, n_bids, n_asks = counts[0] if counts else ("", 0, 0)
    return b"".join(parts), n_bids, n_asks


def decode(payload: memoryview | bytes, *, epoch: int = 0, sequence: int = 0) -> Aggregate:
    """Read the payload of an aggregate message.

    Raises: MessageError when sizes do not agree or a field is missing.
    """
    view = memoryview(payload).cast("B")
    try:
        size = int.from_bytes(view[:8], "little")
        if len(view) < 8 or size > len(view) - 8:
            raise ValueError(f"found {size} bytes of facts in {len(view)} bytes")
        facts = _decode(view[8 : 8 + size])
        offset = 8 + size + _pad(size)
        ladders = {}
        for name, n_bids, n_asks in facts.ladders:
            ladder = ladders[name] = Ladder()
            offset = ladder.unpack(view, offset, n_bids, n_asks, len(facts.venues))
        if offset != len(view):
            raise ValueError(f"found {len(view)} bytes, {offset} of them used")
    except (msgspec.DecodeError, ValueError, OverflowError, RecursionError) as error:
        raise MessageError(f"aggregate payload: expected facts and ladders: {error}") from None
    return Aggregate(
        facts.asset,
        facts.ts_ns,
        facts.venues,
        facts.fx,
        ladders,
        facts.usd_krw,
        facts.fx_venues,
        epoch,
        sequence,
        facts.reference or None,
        facts.dollar or None,
        facts.groups or {},
    )
