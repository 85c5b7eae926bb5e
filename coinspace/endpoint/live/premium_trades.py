"""Can I have it? What trades leave of a premium, after both venues' fees and both books.

A trade buys at one venue and sells the same amount at a venue of the other region, both at market.
All prices are those of the newest summed book, in USDT at the tick's rate; so the rate has no part
in the result on coin basis.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from coinspace.method.aggregate import COMPOSITE, Aggregate
from coinspace.method.siblings import ASKS, BIDS

# direction -> region where it buys, region where it sells
DIRECTIONS = {"sell_kr": ("GL", "KR"), "buy_kr": ("KR", "GL")}


class BookSide(NamedTuple):
    """One side of a venue: amounts in base, and the money for each, in USDT after the fee.

    Both are sums from the best price on, and begin with 0.
    """

    base: NDArray[np.float64]
    money: NDArray[np.float64]


class Left(NamedTuple):
    """What a trade of a size leaves, a fraction of the money put in, by the best pair of venues."""

    size: float
    buy: str | None = None
    sell: str | None = None
    fraction: float | None = None


class Trades(NamedTuple):
    """Trades in one direction, the size in KRW at which nothing is left, and its pair of venues.

    book_end: something is left of every size, and this is the size at which a book ends.
    """

    sizes: list[Left]
    none_left: float
    book_end: bool
    pair: tuple[str | None, str | None]


def trades(
    aggregate: Aggregate,
    used: Mapping[str, set[str]],
    fees: Mapping[str, float],
    sizes: list[float],
) -> dict[str, Trades] | None:
    """Return direction -> its trades; None without a rate.

    Args: used: region -> venues to trade at. fees: exchange -> taker fee; a venue without one is
        left out. sizes: in KRW.
    """
    rate = aggregate.fx.rate
    ladder = aggregate.ladders.get(COMPOSITE)
    if not rate or ladder is None:
        return None
    books: dict[tuple[str, int], dict[str, BookSide]] = {}
    for side in (BIDS, ASKS):
        levels = ladder.side_copy(side)
        for region, names in used.items():
            books[region, side] = _books(aggregate, levels, side, names, fees)
    return {
        direction: _direction(books[buys, ASKS], books[sells, BIDS], sizes, rate)
        for direction, (buys, sells) in DIRECTIONS.items()
        if (buys, ASKS) in books and (sells, BIDS) in books
    }


def _books(
    aggregate: Aggregate,
    levels: tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.int32]],
    side: int,
    names: set[str],
    fees: Mapping[str, float],
) -> dict[str, BookSide]:
    prices, volumes, venues = levels
    found = {}
    for number, venue in enumerate(aggregate.venues):
        fee = fees.get(venue.exchange)
        if fee is None or venue.name not in names:
            continue
        mine = venues == number
        base = volumes[mine]
        if len(base):
            factor = 1.0 + fee if side == ASKS else 1.0 - fee
            found[venue.name] = BookSide(_sums(base), _sums(base * prices[mine] * factor))
    return found


def _sums(values: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.concatenate(((0.0,), np.cumsum(values)))


def _direction(
    buying: Mapping[str, BookSide], selling: Mapping[str, BookSide], sizes: list[float], rate: float
) -> Trades:
    best = [Left(size) for size in sizes]
    none_left, book_end = 0.0, False
    pair: tuple[str | None, str | None] = (None, None)
    for buy, bought in buying.items():
        for sell, sold in selling.items():
            for number, size in enumerate(sizes):
                fraction = left(bought, sold, size / rate)
                known = best[number].fraction
                if fraction is not None and (known is None or fraction > known):
                    best[number] = Left(size, buy, sell, fraction)
            money, ended = nothing_left(bought, sold)
            if money * rate > none_left:
                none_left, book_end, pair = money * rate, ended, (buy, sell)
    return Trades(best, none_left, book_end, pair)


def left(bought: BookSide, sold: BookSide, money: float) -> float | None:
    """Return what is left of some money, a fraction; None where a book has too little."""
    if not 0.0 < money <= bought.money[-1]:
        return None
    amount = float(np.interp(money, bought.money, bought.base))
    if amount > sold.base[-1]:
        return None
    return float(np.interp(amount, sold.base, sold.money)) / money - 1.0


def nothing_left(bought: BookSide, sold: BookSide) -> tuple[float, bool]:
    """Return the money of which a trade leaves nothing, and whether a book ends before.

    0 = nothing is left of any size. A larger trade leaves less per unit, so there is one such size.
    """
    most = min(bought.base[-1], sold.base[-1])
    # the first level of each: beyond it every price is worse
    if sold.money[1] * bought.base[1] <= bought.money[1] * sold.base[1]:
        return 0.0, False
    amounts = np.union1d(bought.base, sold.base)
    amounts = amounts[amounts <= most]
    gain = np.interp(amounts, sold.base, sold.money) - np.interp(amounts, bought.base, bought.money)
    below = np.flatnonzero(gain < 0.0)
    if not len(below):
        return float(np.interp(most, bought.base, bought.money)), True
    end = int(below[0])
    before, after = gain[end - 1], gain[end]
    part = before / (before - after)
    amount = amounts[end - 1] + part * (amounts[end] - amounts[end - 1])
    return float(np.interp(amount, bought.base, bought.money)), False
