"""Makes text from outside safe for a terminal or a log.

Symbols, refusals, reasons, file names and exception texts can contain anything that a sender chose:
codes that move the cursor, line feeds that begin a second line, marks that turn the reading
direction, or a megabyte. Text that is stored or served as JSON is not changed.
"""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Callable, MutableMapping
from typing import TYPE_CHECKING, Any

import orjson

if TYPE_CHECKING:
    from rich.text import Text

LIMIT = 500
# characters of one value or line in a log; tracebacks have many lines
LOG_LIMIT = 2000
TRACEBACK_LINES = 200
MASK = "***"
# names of a connection string whose values are places
_PLACES = ("addr", "host", "hostaddr", "port", "dbname")
# hosts and ports; "%" in a host could be an encoded "@"
_HOSTS = re.compile(r"(?:(?:^|,)(?:\[[\w.:%]*\]|[^\s:%\[\],;=]*)(?::(?:\d*|\*))?)+")
_ILP = re.compile(r"(\s*\w+::)(.*=.*)", re.DOTALL)
# a value ends before the next name, unless it is quoted
_PAIR = re.compile(r"([\w.-]+\s*=\s*)('(?:[^'\\]|\\.)*+'|.*?)(?=\s+[\w.-]+\s*=|\s*$)", re.DOTALL)
_DIGITS = re.compile(r"\d+")
# bytes that no text has
_CONTROLS = bytes(set(range(32)) - set(b"\t\n\r"))
# bytes of a frame that show whether it is binary
_HEAD = 8


def is_binary(frame: bytes) -> bool:
    """Return whether a frame is of a binary format: text has no control characters."""
    head = frame[:_HEAD]
    return len(head.translate(None, _CONTROLS)) < len(head)


def without_numbers(text: str) -> str:
    """Return what texts that differ in numbers only have in common."""
    return _DIGITS.sub("", text)


def printable(value: object, limit: int = LIMIT) -> str:
    """Return a value as one line: unprintable characters are escaped, a long text is cut."""
    try:
        text = str(value)
    except RecursionError:
        text = f"({type(value).__name__} that is nested too deep)"
    cut = ""
    if len(text) > limit:
        cut = f"… ({len(text):,} characters)"
        text = text[:limit]
    if not text.isprintable():
        text = "".join(one if one.isprintable() else _escaped(one) for one in text)
    return text + cut


def shown_address(text: str) -> str:
    """Return an address without what may be a login, a key or a token.

    A URL keeps its scheme, hosts and path, a connection string its names and places. The path of a
    file is not changed.
    """
    if text.startswith("/") and not text.startswith("//"):
        return text
    if ilp := _ILP.match(text):
        # ";;" is one ";" of a value
        parts = ilp[2].replace(";;", MASK).split(";")
        return ilp[1] + ";".join(_shown_pair(*part.partition("=")) for part in parts)
    if not _PAIR.match(text.lstrip()):
        before, scheme, rest = text.partition("://")
        if scheme and "@" not in before:
            return before + scheme + _shown_url(rest)
        if "@" in text:
            return MASK + "@" + _shown_url(text.rpartition("@")[2])
    return _PAIR.sub(lambda pair: _shown_pair(pair[1], "", pair[2]), text)


def _shown_url(rest: str) -> str:
    login, at, place = rest.rpartition("@")
    if "?" in login or "#" in login:
        # a password with one of these characters, or a query with "@"
        return MASK
    where, query = place, ""
    if found := re.search(r"[?#]", place):
        where, query = place[: found.start()], place[found.start() :]
    hosts, slash, path = where.partition("/")
    hosts = hosts if _HOSTS.fullmatch(hosts) else MASK
    path = re.sub(r"[;=].*", MASK, path, flags=re.DOTALL)
    query = re.sub(r"([?&;#](?:[^=&;#]*=)?)[^&;#]+", rf"\1{MASK}", query)
    return f"{at and MASK}{at}{hosts}{slash}{path}{query}"


def _shown_pair(name: str, mark: str, value: str) -> str:
    if not mark and "=" not in name:
        return name and MASK
    place = name.strip(" =\t").lower() in _PLACES and _HOSTS.fullmatch(value)
    return f"{name}{mark}{value if place else MASK}"


def cell(value: object, style: str = "") -> Text:
    """Return a value for a table of rich, which takes brackets as text, not markup."""
    from rich.text import Text

    return Text(printable(value), style)


def for_terminal(text: str) -> str:
    """Return text whose characters a terminal shows; only line feeds and tabs act on it."""
    return "".join(one if one.isprintable() or one in "\n\t" else _escaped(one) for one in text)


def json_line(value: Any, option: int = 0, default: Callable[[Any], Any] | None = None) -> bytes:
    """Return JSON as `orjson.dumps` does, safe for a terminal.

    A text or a number that orjson refuses, such as a file name that is not UTF-8, is written too.
    """
    try:
        return safe_json(orjson.dumps(value, default=default, option=option))
    except TypeError:
        indent = 2 if option & orjson.OPT_INDENT_2 else None
        end = "\n" if option & orjson.OPT_APPEND_NEWLINE else ""
        return (json.dumps(value, default=default or str, indent=indent) + end).encode()


def safe_json(data: bytes) -> bytes:
    """Return JSON in which characters that a terminal acts on are escaped, as JSON allows."""
    if data.isascii() and b"\x7f" not in data:
        return data
    text = data.decode()
    return "".join(
        one if one.isprintable() or one == "\n" else json.dumps(one)[1:-1] for one in text
    ).encode()


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
