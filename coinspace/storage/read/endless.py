"""What the server does not end in users' SQL, whatever its time-out, and what ends the server.

* A text such as `[2025..2026]-[01..12]` after IN means a list of times, which the server makes
  before it reads a row.
* SAMPLE BY with FILL makes rows that no table has. The end of the connection ends them where they
  are sent, but not where an outer SELECT consumes them.
* A window that ignores nulls is searched from its beginning for each row.
* WINDOW JOIN and HORIZON JOIN by a text read all rows of a window for each row.
* SPLICE JOIN reads memory that it has freed (server 9.3.4).
"""

from __future__ import annotations

import re
import sys
from collections.abc import Sequence
from itertools import pairwise
from math import prod

from coinspace.errors import StorageError

# (kind, text) of a token, as the lexer of `statement` finds them; gaps are left out
Token = tuple[str, str]

# times of one text: the server makes them in some 25 ms
TIMES_LIMIT = 100_000
BRACKETS = re.compile(r"\[([^\[\]]*)\]")
RANGE = re.compile(r"\s*([0-9]{1,4})\s*\.\.\s*([0-9]{1,4})\s*")
# functions of times that may follow IN
CALLS = frozenset({"INTERVAL", "TODAY", "TOMORROW", "YESTERDAY"})
# a number, or nothing
VALUE = re.compile(r"[0-9.+-]+|NULL")
JOINS = ("HORIZON", "SPLICE", "WINDOW")
SELECTS = frozenset({"DECLARE", "SELECT", "WITH"})
# where one of these is, the server may consume the rows itself
CONSUMERS = frozenset(
    {"DECLARE", "DISTINCT", "EXCEPT", "INTERSECT", "JOIN", "OVER", "PIVOT", "UNION", "WITH"}
)


def check_endless(tokens: Sequence[Token]) -> None:
    """Check the tokens of a statement. Raises: StorageError for what the server may not end."""
    # a quoted name stays one: it may look like a number or a text
    words = [text.upper() if kind == "word" else text for kind, text in tokens]
    ends = _ends(words)
    for at, word in enumerate(words):
        if word.strip('"').upper() == "IN":
            _check_operand(words, ends, at + 1)
    plain = [word.strip('"').upper() for word in words]
    _check_fill(plain)
    pairs = set(pairwise(plain))
    if ("SPLICE", "JOIN") in pairs:
        raise StorageError(
            "sql: expected ASOF JOIN, LT JOIN or others, since SPLICE ends the server"
        )
    bounds = {before for before, after in pairs if after in ("FOLLOWING", "PRECEDING")}
    if ("IGNORE", "NULLS") in pairs and bounds - {"UNBOUNDED"}:
        raise StorageError("sql: expected IGNORE NULLS of a window that begins UNBOUNDED PRECEDING")


def _ends(words: Sequence[str]) -> dict[int, int]:
    """Return place of an opening parenthesis -> place of the closing one."""
    found: dict[int, int] = {}
    opened: list[int] = []
    for at, word in enumerate(words):
        if word == "(":
            opened.append(at)
        elif word == ")" and opened:
            found[opened.pop()] = at
    return found


def _check_operand(words: Sequence[str], ends: dict[int, int], first: int) -> None:
    """Check what follows IN: a text of times must stand there, not be composed or named."""
    called = "".join(words[first : first + 1]).rpartition(".")[2] in CALLS
    last = ends.get(first + called, first)
    good = called
    is_composed = words[last + 1 : last + 2] == ["|"]
    while not good and ends.get(first) == last:
        first, last = first + 1, last - 1
        # the server takes the texts of a list as single times
        good = words[first] in SELECTS or _has_comma(words, ends, first, last)
    operand = words[first : last + 1]
    is_text = len(operand) == 1 and operand[0].startswith("'")
    if is_composed or not (good or is_text or VALUE.fullmatch("".join(operand))):
        raise StorageError(
            "sql: expected IN with a text, a list, a SELECT, today() or interval(…), was"
            f" {' '.join(operand)[:40]!r}"
        )
    if is_text:
        _check_times(operand[0])


def _has_comma(words: Sequence[str], ends: dict[int, int], first: int, last: int) -> bool:
    at = first
    while at <= last:
        if words[at] == ",":
            return True
        at = ends.get(at, at) + 1
    return False


def _check_times(text: str) -> None:
    try:
        count = prod(map(_count, BRACKETS.findall(text)))
    except ValueError:
        count = sys.maxsize
    if count > TIMES_LIMIT or ".." in BRACKETS.sub("", text):
        raise StorageError(
            f"sql: expected IN with at most {TIMES_LIMIT} times, as '2026-[01..12]-01', was"
            f" {text[:40]!r}"
        )


def _count(content: str) -> int:
    """Return the number of values between brackets. Raises: ValueError for unknown ranges."""
    count = 0
    for part in content.split(","):
        found = RANGE.fullmatch(part)
        if ".." in part and found is None:
            raise ValueError(part)
        count += int(found[2]) - int(found[1]) + 1 if found else 1
    return max(1, count)


def _check_fill(words: Sequence[str]) -> None:
    if ("FILL", "(") not in pairwise(words):
        return
    good = words.count("SELECT") == 1 and CONSUMERS.isdisjoint(words)
    if good and "LIMIT" in words:
        # rows that are skipped or counted from the end are made, too
        good = "".join(words[words.index("LIMIT") + 1 :]).strip(";").isdigit()
    if not good:
        raise StorageError(
            "sql: expected FILL in a single SELECT without DISTINCT, windows and joins, and with"
            " LIMIT N at most, since the server cannot end others"
        )
