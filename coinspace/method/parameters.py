"""Identity of a calculation: the method's version and a hash over every parameter."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping

import orjson

from coinspace._ext.curve import Curve
from coinspace.config import IndexParameters
from coinspace.exchanges import every

# raised with every change after which the same parameters and books can give another value
METHOD_VERSION = 2
INDEX_CURRENCY = "USDT"
FX_CURRENCY = "KRW"

# region of an exchange, and the currency in which the region's own value is computed
REGIONS = {one.NAME: one.REGION for one in every()}
CURRENCIES = {"KR": "KRW", "GL": INDEX_CURRENCY}


# decisions where the methodology text leaves a choice; part of every methodology record
NOTES = (
    "When all usable venues of a region deviate, the region's value is computed from them and"
    " marked unjudged; the composite never contains them.",
    "While no rate is usable, the premium is computed with the rate of flagged or unconfirmed"
    " USDT/KRW books and marked unjudged; no price is ever converted with this rate.",
    "An index that was not calculated for a while has a not_computed record for each missed tick,"
    " written when the calculation runs again.",
    "Where an exchange sends books of price groups, the groups that lie wholly beyond a book's last"
    " single level follow it, each as one level at the price that the exchange gives it. A group"
    " that may reach into the single levels is left out, so that no order counts twice. Groups that"
    " stay away for 10 s while the book changes are left out. The coverage depth ends at the last"
    " group.",
    "A value has eight significant digits where its parameters set no decimals, or where rounding"
    " to these decimals would give zero.",
)


def region_of(exchange: str, quote: str) -> str:
    """Return the region of a venue: its exchange's, or else the region of its quote currency."""
    return REGIONS.get(exchange) or ("KR" if quote == FX_CURRENCY else "GL")


def regions_of(depths: Mapping[str, float] | None = None) -> dict[str, str]:
    """Return exchange -> region of the exchanges that count: an unused one changes no value.

    Args: depths: of the exchanges that count, None = those of the default configuration.
    """
    counted = {one.NAME for one in every() if one.BY_DEFAULT} if depths is None else depths
    return {name: region for name, region in REGIONS.items() if name in counted}


def parameter_hash(parameters: IndexParameters, depths: Mapping[str, float] | None = None) -> str:
    """Return the first 16 hex digits of SHA-256 over version, parameters and input depths.

    Args: depths: exchange -> published levels per side; they limit the coverage depth.
    """
    content = {
        "version": METHOD_VERSION,
        "regions": regions_of(depths),
        "parameters": parameters.model_dump(),
        "depths": dict(depths or {}),
    }
    return hashlib.sha256(orjson.dumps(content, option=orjson.OPT_SORT_KEYS)).hexdigest()[:16]


def make_curve(parameters: IndexParameters, *, fx: bool = False) -> Curve:
    """Return the calculation of an index, or of FX with its separate spread limit."""
    return Curve(
        parameters.fx_max_spread if fx else parameters.max_spread,
        spacing=(1.0 if fx else parameters.spacing) if parameters.mode == "grid" else 0.0,
        cut=parameters.depth == "coverage",
        decay=parameters.decay,
        cap_band=parameters.cap_band,
        cap_min_per_side=parameters.cap_min_per_side,
        cap_trim=parameters.cap_trim,
        cap_sigmas=parameters.cap_sigmas,
    )
