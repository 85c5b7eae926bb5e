"""Makes text from outside safe for a terminal or a log.

Symbols, refusals, reasons, file names and exception texts can contain anything that a sender chose:
codes that move the cursor, line feeds that begin a second line, marks that turn the reading
direction, or a megabyte. Text that is stored or served as JSON is not changed.
"""

from __future__ import annotations

import logging
import re
from collections.abc import MutableMapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.text import Text

LIMIT = 500
# characters of one value or line in a log; tracebacks have many lines
LOG_LIMIT = 2000
TRACEBACK_LINES = 200
_DIGITS = re.compile(r"\d+")


def without_numbers(text: str) -> str:
    """Return what texts that differ in numbers only have in common."""
    return _DIGITS.sub("", text)


def printable(value: object, limit: int = LIMIT) -> str:
    """Return a value as one line: unprintable characters are escaped, a long text is cut."""
    text = str(value)
    cut = ""
    if len(text) > limit:
        cut = f"… ({len(text):,} characters)"
        text = text[:limit]
    if not text.isprintable():
        text = "".join(one if one.isprintable() else _escaped(one) for one in text)
    return text + cut


def cell(value: object, style: str = "") -> Text:
    """Return a value for a table of rich, which takes brackets as text, not markup."""
    from rich.text import Text

    return Text(printable(value), style)


def printable_lines(text: str) -> str:
    """Return text of several lines, each of them printable."""
    lines = text.split("\n")
    if len(lines) > TRACEBACK_LINES:
        half = TRACEBACK_LINES // 2
        lines[half:-half] = [f"… ({len(lines) - TRACEBACK_LINES:,} lines)"]
    return "\n".join(printable(line, LOG_LIMIT) for line in lines)


def _escaped(character: str) -> str:
    code = ord(character)
    if code < 0x100:
        return f"\\x{code:02x}"
    return f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"


class PrintableFormatter(logging.Formatter):
    """Formats the log lines of libraries, each of them printable."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the line, and the lines of its traceback."""
        return printable_lines(super().format(record))


def printable_event(
    logger: object, name: str, event: MutableMapping[str, Any]
) -> MutableMapping[str, Any]:
    """Make the values of a log line printable (a structlog processor)."""
    for key, value in event.items():
        if key == "exception":
            event[key] = printable_lines(str(value))
        elif isinstance(value, str):
            event[key] = printable(value, LOG_LIMIT)
        elif not isinstance(value, int | float | None):
            text = repr(value)
            if len(text) > LOG_LIMIT or not text.isprintable():
                event[key] = printable(text, LOG_LIMIT)
    return event
