"""JSON objects as text for a terminal of any width.

An object is its facts, one a line, with the parts of nested objects as `part.name`, and then a
table for each list of objects. A table that is wider than the terminal shows the columns that
matter most, whole, and names the others. A pipe gets every column.
"""

from __future__ import annotations

import sys
import unicodedata
from collections.abc import Iterable, Sequence
from typing import Any

from coinspace.clock import MILLISECOND_NS
from coinspace.instant import shown
from coinspace.text import printable

GAP = "  "
# a text of more columns than this is cut when a table does not fit
TEXT_WIDTH = 30
# more numbers of a list are only counted, more columns are not named
MANY = 8
# fields that are times in ms
TIMES = (
    "ts", "received", "exchange_time", "since", "effective", "start", "end", "until",
    "book_ts", "ticker_ts", "trade_ts",
)  # fmt: skip
# a gap's end; of a candle it is a flag
MAYBE_TIMES = ("closed",)
# the columns to show first when not all fit
FIRST = (
    "name", "asset", "venue", "process", "market", "side", "price", "size", "exchange", "value",
    "premium.coin", "premium.fiat", "last", "open", "high", "low", "close", "state", "status",
    "bids", "asks", "reason", "bid", "ask", "share", "used", "mid", "count", "ts", "trade_id",
    "change", "volume",
    "premium", "kr.value", "gl.value", "kr", "gl", "fx", "age_ms",
)  # fmt: skip
LADDER = ("bid size", "bid", "ask", "ask size")


def text_of(body: dict[str, Any], width: int | None) -> str:
    """Return an object as lines. Args: width: columns of the terminal, None = no limit."""
    facts, tables = _parts(body)
    lines = _facts(facts, width)
    for title, rows in tables:
        lines += ["", *_table(title, rows, width)] if lines else _table(title, rows, width)
    return "".join(f"{line if width is None else _short(line, width)}\n" for line in lines)


Row = dict[str, Any]


def _parts(body: Row) -> tuple[list[tuple[str, Any]], list[tuple[str, list[Row]]]]:
    """Return the single facts of an object, and its tables by title."""
    facts: list[tuple[str, Any]] = []
    tables: list[tuple[str, list[Row]]] = []
    if _is_book(body):
        tables.append(("", _ladder(body["bids"], body["asks"])))
        body = {name: one for name, one in body.items() if name not in ("bids", "asks")}
    for name, one in body.items():
        if isinstance(one, dict) and one and all(isinstance(part, dict) for part in one.values()):
            tables.append((name, [{"name": key, **part} for key, part in one.items()]))
        elif isinstance(one, dict):
            below, more = _parts(one)
            facts += [(f"{name}.{key}", part) for key, part in below]
            tables += [(f"{name}.{title}".rstrip("."), rows) for title, rows in more]
        elif isinstance(one, list) and one and all(isinstance(part, dict) for part in one):
            tables.append((name, one))
        else:
            facts.append((name, one))
    return facts, tables


def _is_book(body: Row) -> bool:
    sides = [body.get("bids"), body.get("asks")]
    return all(isinstance(one, list) and all(map(_is_level, one)) for one in sides)


def _is_level(one: Any) -> bool:
    if isinstance(one, dict):
        return {"price", "size"} <= one.keys()
    return isinstance(one, list) and len(one) == 2


def _ladder(bids: list[Any], asks: list[Any]) -> list[Row]:
    """Return the levels of a book side by side, best first."""
    found = []
    for number in range(max(len(bids), len(asks))):
        bid, bid_size = _level(bids, number)
        ask, ask_size = _level(asks, number)
        found.append(dict(zip(LADDER, (bid_size, bid, ask, ask_size), strict=True)))
    return found


def _level(side: list[Any], number: int) -> tuple[Any, Any]:
    if number >= len(side):
        return "", ""
    level = side[number]
    return (level["price"], level["size"]) if isinstance(level, dict) else tuple(level)


def _facts(facts: list[tuple[str, Any]], width: int | None) -> list[str]:
    if not facts:
        return []
    names = [printable(name) for name, _ in facts]
    left = max(
        (columns(one) for one in names if width is None or columns(one) <= width // 2), default=0
    )
    lines: list[str] = []
    for name, (key, value) in zip(names, facts, strict=True):
        shown = _cell(key, value)
        if width is not None and max(left, columns(name)) + len(GAP) + columns(shown) > width:
            # a long text gets lines of its own
            room = max(width - len(GAP), 10)
            lines += _wrapped(name, width)
            lines += [GAP + part for part in _wrapped(shown, room)]
        else:
            lines.append(f"{_padded(name, left)}{GAP}{shown}")
    return lines


def _wrapped(text: str, room: int) -> Iterable[str]:
    line = ""
    for word in text.split(" "):
        while columns(word) > room:
            cut = _cut(word, room - columns(line) - bool(line)) if line else _cut(word, room)
            if not cut:
                yield line
                line = ""
                continue
            yield f"{line} {cut}".strip()
            line, word = "", word[len(cut) :]
        if line and columns(line) + 1 + columns(word) > room:
            yield line
            line = word
        else:
            line = f"{line} {word}".strip()
    if line:
        yield line


def _table(title: str, rows: Sequence[Row], width: int | None) -> list[str]:
    flat = [flattened(row) for row in rows]
    names = list(dict.fromkeys(name for row in flat for name in row))
    cells = {name: [_cell(name, row.get(name)) for row in flat] for name in names}
    # a value that could stand for a number stands at the right
    right = {name for name in names if all(map(_is_number, (row.get(name) for row in flat)))}
    gap = GAP
    shown, left_out = _chosen(names, cells, width, len(GAP))
    if left_out and not (narrow := _chosen(names, cells, width, 1))[1]:
        gap, (shown, left_out) = " ", narrow
    lines = [_short(printable(title), width or sys.maxsize)] if title else []
    sizes = {name: max(columns(printable(name)), *map(columns, cells[name])) for name in shown}
    heads = [_padded(printable(name), sizes[name], right=name in right) for name in shown]
    lines.append(gap.join(heads).rstrip())
    for number in range(len(flat)):
        parts = [_padded(cells[name][number], sizes[name], right=name in right) for name in shown]
        lines.append(gap.join(parts).rstrip())
    if left_out:
        more = f" and {len(left_out) - MANY} more" if len(left_out) > MANY else ""
        known = ", ".join(map(printable, left_out[:MANY]))
        note = f"not shown: {known}{more} (--json has them)"
        lines += _wrapped(note, width or len(note))
    return lines


def flattened(row: Row, prefix: str = "") -> Row:
    """Return an object with the parts of nested ones as `part.name`."""
    found: Row = {}
    for name, one in row.items():
        if isinstance(one, dict):
            found |= flattened(one, f"{prefix}{name}.")
        else:
            found[prefix + name] = one
    return found


def _chosen(
    names: list[str], cells: dict[str, list[str]], width: int | None, gap: int
) -> tuple[list[str], list[str]]:
    """Return the columns that fit, in their order, and the others; long texts are cut."""

    def size(name: str) -> int:
        return max(columns(printable(name)), *map(columns, cells[name]))

    if width is None or sum(map(size, names)) + gap * (len(names) - 1) <= width:
        return names, []
    for name in names:
        cells[name] = [_short(one, min(TEXT_WIDTH, width)) for one in cells[name]]
    place = {name: number for number, name in enumerate(FIRST)}
    if "venue" in cells:
        # it has both names
        place |= dict.fromkeys(("exchange", "market"), len(place))
    wanted = sorted(names, key=lambda name: (place.get(name, len(place)), names.index(name)))
    # a column without any value says nothing
    wanted = [name for name in wanted if any(one != "-" for one in cells[name])]
    room = width
    kept: set[str] = set()
    for name in wanted:
        needed = size(name) + (gap if kept else 0)
        if needed <= room or not kept:
            kept.add(name)
            room -= needed
    return [name for name in names if name in kept], [name for name in names if name not in kept]


def _short(text: str, width: int) -> str:
    return text if columns(text) <= width else _cut(text, width - 1) + "…"


def _cell(name: str, value: Any) -> str:
    plain = name.rpartition(".")[2]
    if value is None:
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int) and (plain in TIMES or plain in MAYBE_TIMES):
        return shown(value * MILLISECOND_NS)
    if isinstance(value, list):
        return printable(_listed(value))
    return printable(value)


def _listed(value: list[Any]) -> str:
    if not value:
        return "none"
    first = value[0]
    if _is_level(first):
        # a side of a book
        price, size = _level(value, 0)
        more = f" (+{len(value) - 1})" if len(value) > 1 else ""
        return f"{price} × {size}{more}"
    if all(isinstance(one, dict) for one in value):
        return ", ".join(" ".join(str(part) for part in one.values()) for one in value)
    if len(value) > MANY and all(isinstance(one, float | int) for one in value):
        return f"{len(value)} numbers (--json has them)"
    return ", ".join(map(str, value))


def _is_number(value: Any) -> bool:
    if isinstance(value, bool | list):
        return False
    if isinstance(value, str):
        return value == "" or value.lstrip("-").replace(".", "", 1).isdigit()
    return True


def columns(text: str) -> int:
    """Return how many columns a text takes: an East Asian character takes two."""
    if text.isascii():
        return len(text)
    return sum(
        0 if unicodedata.combining(one) else 2 if unicodedata.east_asian_width(one) in "WF" else 1
        for one in text
    )


def _cut(text: str, width: int) -> str:
    while text and columns(text) > width:
        text = text[:-1]
    return text


def _padded(text: str, width: int, *, right: bool = False) -> str:
    space = " " * max(0, width - columns(text))
    return space + text if right else text + space
