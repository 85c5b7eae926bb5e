"""Identity of a calculation: the method's version and a hash over every parameter."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping

import orjson

from coinspace._ext.curve import Curve
from coinspace.config import IndexParameters
from coinspace.exchanges import every

# raised whenever the same parameters and books can give another value
METHOD_VERSION = 2
INDEX_CURRENCY = "USDT"
FX_CURRENCY = "KRW"

# region of an exchange, and the currency in which the region's own value is computed
REGIONS = {one.NAME: one.REGION for one in every()}
CURRENCIES = {"KR": "KRW", "GL": INDEX_CURRENCY}


# where the text leaves a choice, or would leave a market without a number: in every methodology
# record
NOTES = (
    "A region whose usable venues are all deviating has its value computed from them, marked"
    " unjudged; the composite never contains them.",
    "While no rate is usable, the premium is taken at what flagged or unconfirmed USDT/KRW books"
    " say, marked unjudged; no price is ever converted at it.",
    "An index that was not calculated for a while has a not_computed record for each of its ticks,"
    " written when it is calculated again.",
    "A value has eight significant digits where its parameters name no decimals, or so few that"
    " nothing would be left of it.",
)


def region_of(exchange: str, quote: str) -> str:
    """Return the region of a venue; an exchange without one belongs where its currency does."""
    return REGIONS.get(exchange) or ("KR" if quote == FX_CURRENCY else "GL")


def parameter_hash(parameters: IndexParameters, depths: Mapping[str, int] | None = None) -> str:
    """Return the first 16 hex digits of SHA-256 over version, parameters and input depths.

    Args: depths: exchange -> published levels per side, which bound the coverage depth.
    """
    content = {
        "version": METHOD_VERSION,
        "regions": REGIONS,
        "parameters": parameters.model_dump(),
        "depths": dict(depths or {}),
    }
    return hashlib.sha256(orjson.dumps(content, option=orjson.OPT_SORT_KEYS)).hexdigest()[:16]


def make_curve(parameters: IndexParameters, *, fx: bool = False) -> Curve:
    """Return the calculation of an index, or of FX, which has a spread limit of its own."""
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
