"""The index record: all facts about one tick of one index.

Each field is defined only here, with its meaning. Table columns, rows, the JSON on the bus, values
and schemas of the API, the comparison with recomputed records, the records of outages and the
output of `compute-index` all derive from these structs.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum, auto
from functools import cache
from typing import Annotated, Any, NamedTuple, get_args, get_origin, get_type_hints

import msgspec
from msgspec import Struct, field

from coinspace.errors import MessageError


class Kind(Enum):
    """The meaning of a field; storage and API each have one format per kind."""

    NAME = auto()
    NAMES = auto()
    FLAG = auto()
    COUNT = auto()
    # AGE: a duration in ms; INSTANT: ns since the epoch, 0 = none
    AGE = auto()
    INSTANT = auto()
    # rounded already
    ROUNDED = auto()
    # stored without rounding: a restart and a recomputation need every bit
    EXACT = auto()
    # the same, between 0 and 1
    SHARE = auto()
    # stored with 8 significant digits
    PRICE = auto()
    RATIO = auto()
    # a part with columns of its own, see `storage.parts`; an answer has it where its model names it
    PART = auto()


@dataclass(frozen=True, slots=True)
class As:
    """Another name of a field in a table or in the API; None = the field is absent there."""

    column: str | None = ""
    served: str | None = ""


@dataclass(frozen=True, slots=True)
class Needs:
    """The field that a flag is about. Without it the flag is None, which no table can store."""

    field: str


INTERNAL = As(served=None)

Name = Annotated[str, Kind.NAME]
NameOrNone = Annotated[str | None, Kind.NAME]
Names = Annotated[list[str], Kind.NAMES]
Flag = Annotated[bool | None, Kind.FLAG]
Count = Annotated[int, Kind.COUNT]
CountOrNone = Annotated[int | None, Kind.COUNT]
Rounded = Annotated[float | None, Kind.ROUNDED]
Exact = Annotated[float | None, Kind.EXACT]
Price = Annotated[float | None, Kind.PRICE]
Ratio = Annotated[float | None, Kind.RATIO]


# No struct refers to its owner, so the garbage collector can skip them: a tick makes twenty.
class VenueRecord(Struct, kw_only=True, gc=False):
    """One venue in an index record: used or not, its share, mid and age.

    `grouped_from`: distance from its mid, as a share of it, from which on its levels are price
    groups; None = all are single levels.
    """

    used: Annotated[bool, Kind.FLAG]
    reason: NameOrNone = None
    share: Annotated[float | None, Kind.SHARE] = 0.0
    mid: Exact = None
    age_ms: Annotated[float | int | None, Kind.AGE] = None
    # between 0 and 1; stored without rounding, so that a recomputed record is equal
    grouped_from: Annotated[float | None, Kind.SHARE] = None


class InputRecord(Struct, kw_only=True, gc=False):
    """The message that a venue's book came from."""

    publisher: NameOrNone = None
    epoch: Count = 0
    sequence: Annotated[int, Kind.COUNT, As(column="seq")] = 0
    received_ns: Annotated[int, Kind.INSTANT, As(column="received_ts", served="received")] = 0
    changed_ns: Annotated[int, Kind.INSTANT, As(column="changed_ts", served=None)] = 0


class Valuation(Struct, gc=False):
    """One value over the used venues of a ladder, with its quality.

    Volumes are in base, prices in `currency`. `value_raw` is unrounded, `value_full` without the
    cut at the coverage depth. `curve_end` is `D` or `exhausted`. `reason` says why there is no
    value. `shares` are those of the used venues. Fields after `shares` are about a region.
    """

    currency: Name
    value: Rounded = None
    value_raw: Annotated[Exact, INTERNAL] = None
    value_full: Annotated[Exact, INTERNAL] = None
    reason: NameOrNone = None
    single_source: Annotated[Flag, Needs("confidence")] = None
    unjudged: Flag = None
    curve_end: Annotated[NameOrNone, INTERNAL] = None
    utilised_depth: Annotated[Price, INTERNAL] = None
    rate: Annotated[Exact, INTERNAL] = field(default=None, name="lambda")
    size_cap: Annotated[Price, INTERNAL] = None
    coverage_depth: Annotated[Price, INTERNAL] = None
    depth_limited: Annotated[Flag, INTERNAL, Needs("value_raw")] = None
    best_bid: Annotated[Price, INTERNAL] = None
    best_ask: Annotated[Price, INTERNAL] = None
    shares: dict[str, float] = {}
    confidence: Price = None
    median_capped: Price = None
    alarm: Annotated[Flag, Needs("value_raw")] = None
    twap: Annotated[Price, As(served="twap_1m")] = None


class PremiumRecord(Struct, gc=False):
    """The premium: a on fiat basis, b on coin basis, c of USDT itself; (1+a) = (1+b)(1+c)."""

    a: float | None
    b: float | None
    c: float | None


class ExecutableRecord(Struct, gc=False):
    """The premium after trading both legs of a size at market, fees included."""

    size: Rounded
    sell_kr: Ratio
    buy_kr: Ratio


class LiquidityRecord(Struct, gc=False):
    """Average price to sell (`bid`) or buy (`ask`) a size, fees included."""

    size: Rounded
    bid: Price
    ask: Price


class IndexRecord(Struct, kw_only=True, gc=False):
    """One tick of one index. The defaults are the fields of a tick that was not computed.

    `kr` and `gl` are the regions' values in their own currencies, `value_krw` is the composite's
    value in KRW. `flagged`, `fx_flagged` and `split` are the memory of the method. `repeated`: the
    clock was set back, and the instant already has a stored record. `latency_ns`: from the tick
    to its publication. `usd_krw`: KRW per USD, its status, its source and that source's time;
    `usd_krw_heard_ns`: receipt of the newest quotation that the tick knows. `usdt_usd`: USD per
    USDT and its status; `assumed`: no USDT/USD book is collected, and a USDT counts as a USD.
    `value_usd` is the composite's value in USD at that rate, as `value_krw` is in KRW.
    """

    asset: Name
    ts_ms: Annotated[int | float, As(served="ts")]
    status: Name
    reason: NameOrNone = None
    value: Rounded = None
    value_raw: Annotated[Exact, INTERNAL] = None
    value_full: Annotated[Exact, INTERNAL] = None
    value_krw: Price = None
    best_bid: Price = None
    best_ask: Price = None
    fx: Exact = None
    fx_status: NameOrNone = None
    usd_krw: Exact = None
    usd_krw_status: NameOrNone = None
    usd_krw_source: NameOrNone = None
    usd_krw_observed_ns: Annotated[CountOrNone, INTERNAL] = None
    usd_krw_heard_ns: Annotated[CountOrNone, INTERNAL] = None
    usdt_usd: Exact = None
    usdt_usd_status: NameOrNone = None
    value_usd: Price = None
    kr: Exact = None
    gl: Exact = None
    regions: Annotated[dict[str, Valuation] | None, Kind.PART] = None
    premium: Ratio = None
    premium_parts: Annotated[PremiumRecord | None, Kind.PART] = None
    premium_unjudged: Annotated[bool | None, Kind.PART, Needs("premium")] = None
    premium_executable: Annotated[list[ExecutableRecord] | None, Kind.PART] = None
    # rate of suspect books, where no rate is usable
    fx_doubted: Annotated[float | None, Kind.PART] = None
    median_capped: Price = None
    confidence: Price = None
    twap: Annotated[Price, As(served="twap_1m")] = None
    utilised_depth: Price = None
    rate: Annotated[Exact, INTERNAL] = field(default=None, name="lambda")
    coverage_depth: Price = None
    depth_limited: Flag = None
    curve_end: NameOrNone = None
    size_cap: Price = None
    liquidity: Annotated[list[LiquidityRecord] | None, Kind.PART] = None
    flagged: Annotated[Names, INTERNAL] = []
    fx_flagged: Annotated[Names, INTERNAL] = []
    split: Flag = None
    failed: Flag = None
    repeated: Annotated[bool, Kind.FLAG, As(column=None)] = False
    method_version: CountOrNone = None
    parameter_hash: NameOrNone = None
    venues: Annotated[dict[str, VenueRecord], As(served="constituents")] = {}
    fx_venues: dict[str, VenueRecord] = {}
    inputs: dict[str, InputRecord] = {}
    latency_ns: Annotated[CountOrNone, INTERNAL] = None


class Fact(NamedTuple):
    """One field of a record: its attribute, its names in JSON, tables and API, its meaning.

    needs: the attribute without which a flag is None, "" = always a flag.
    """

    attribute: str
    key: str
    kind: Kind | None
    column: str | None
    served: str | None
    optional: bool
    needs: str = ""


@cache
def facts(record: type[Struct]) -> tuple[Fact, ...]:
    """Return the fields of a struct in their order."""
    hints = get_type_hints(record, include_extras=True)
    names = zip(record.__struct_fields__, record.__struct_encode_fields__, strict=True)
    return tuple(_fact(name, key, hints[name]) for name, key in names)


def _fact(attribute: str, key: str, hint: Any) -> Fact:
    plain, *marks = get_args(hint) if get_origin(hint) is Annotated else (hint,)
    kind = next((one for one in marks if isinstance(one, Kind)), None)
    named = next((one for one in marks if isinstance(one, As)), As())
    column, served = (key if name == "" else name for name in (named.column, named.served))
    if kind in (None, Kind.PART):
        column = None
    needs = next((one.field for one in marks if isinstance(one, Needs)), "")
    return Fact(attribute, key, kind, column, served, type(None) in get_args(plain), needs)


encode = msgspec.json.Encoder().encode
_decoder = msgspec.json.Decoder(IndexRecord)


def decode(payload: memoryview | bytes) -> IndexRecord:
    """Decode a record from the bus. Raises: MessageError naming the expected field."""
    try:
        return _decoder.decode(payload)
    except (msgspec.DecodeError, ValueError, RecursionError) as error:
        raise MessageError(f"index record: {error}") from None
