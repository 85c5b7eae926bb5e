"""Numbers as text in the exchanges' formats, from integers: `n` counts units of 10^-decimals."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

# books repeat their prices and most of their sizes: a look-up takes a tenth of a formatting's time.
# The caches of a process share ALL_ENTRIES, about 150 bytes each; each has at least LEAST_ENTRIES
ALL_ENTRIES = 200_000
LEAST_ENTRIES = 200


def fixed(n: int, decimals: int) -> str:
    """All decimals: 100473000.00000000."""
    if not decimals:
        return str(n)
    text = f"{abs(n):0{decimals + 1}d}"
    return f"{'-' if n < 0 else ''}{text[:-decimals]}.{text[-decimals:]}"


def eight(n: int, decimals: int) -> str:
    """Eight decimals, whatever the tick size: 100473000.00000000."""
    return fixed(n * 10 ** (8 - decimals), 8)


def short(n: int, decimals: int) -> str:
    """Shortest: 15.399, 0.3313, 0, 116208000."""
    text = fixed(n, decimals)
    return text.rstrip("0").rstrip(".") if decimals else text


def pointed(n: int, decimals: int) -> str:
    """Shortest with a decimal point: 109950000.0."""
    text = short(n, decimals)
    return text if "." in text else text + ".0"


def scientific(n: int, decimals: int) -> str:
    """Java's Double.toString: 1.16539E8, 7.9276E-4, 5.0E-4, 3715000.0."""
    if not n:
        return "0.0"
    digits, sign = str(abs(n)), "-" if n < 0 else ""
    exponent = len(digits) - 1 - decimals
    if -3 <= exponent < 7:
        return pointed(n, decimals)
    digits = digits.rstrip("0")
    return f"{sign}{digits[0]}.{digits[1:] or '0'}E{exponent}"


def terse(n: int, decimals: int) -> str:
    """Like `scientific` without a fraction of 0: 6E-8, 9.9E-7; integers stay integers."""
    if n and len(str(abs(n))) - 1 - decimals < -3:
        return scientific(n, decimals).replace(".0E", "E")
    return short(n, decimals)


class Spelling(dict[int, str]):
    """A cached text format of one number field: call it with the number.

    It is a dict that formats missing values, so that a known value needs no Python frame.

    Attributes: alive: number of instances in this process.
    """

    __slots__ = ("_decimals", "_spell")
    alive = 0

    def __init__(self, spell: Callable[[int, int], str], decimals: int) -> None:
        super().__init__()
        self._spell = spell
        self._decimals = decimals
        Spelling.alive += 1

    def __del__(self) -> None:
        # at the end of the process its name is gone
        type(self).alive -= 1

    def __missing__(self, n: int) -> str:
        if len(self) >= max(LEAST_ENTRIES, ALL_ENTRIES // Spelling.alive):
            self.clear()
        text = self[n] = self._spell(n, self._decimals)
        return text

    __call__ = dict.__getitem__


# one for all markets with the same decimals
spelling = cache(Spelling)
