"""Which SQL of a user's own is passed on: statements that only read tables.

The database's reading user cannot write tables, but the server lets him export files, list folders,
empty caches and lift his own time-out. So statements are limited by kind and by function.
"""

from __future__ import annotations

import re

from coinspace.errors import EndpointError

SIZE_LIMIT = 100_000
KINDS = ("SELECT", "WITH", "EXPLAIN", "SHOW", "DECLARE")
SHOWN = ("TABLES", "COLUMNS", "PARTITIONS", "CREATE")
# functions that read files, change the server or tell of its inside
FUNCTION = re.compile(
    r"(?:\w*_files|files|read_\w+|\w*_parquet|flush_\w+|reload_\w+|simulate_\w+|dump_\w+|hydrate_\w+"
    r"|memory_metrics|\w+_pool|\w+_activity|table_writer_metrics|touch|wait_\w+|checkpoint_\w+"
    r"|sleep\w*|pg_(?:read|ls|sleep|terminate|cancel|reload|stat_file)\w*)",
    re.IGNORECASE,
)
# comments and text first: what they contain is no statement
TOKEN = re.compile(
    r"(?P<gap>\s+|--[^\n]*|/\*.*?\*/)"
    r"|(?P<text>'(?:[^']|'')*')"
    r'|"(?P<quoted>[^"]*)"'
    r"|(?P<word>[^\W\d]\w*(?:\.[^\W\d]\w*)*)"
    r"|(?P<other>.)",
    re.DOTALL,
)


def check(text: str) -> None:
    """Check one statement. Raises: EndpointError saying what is not passed on."""
    if len(text) > SIZE_LIMIT:
        raise EndpointError(f"sql: expected at most {SIZE_LIMIT} characters, was {len(text)}")
    words = _words(text)
    kind = next((word for word in words if word != "("), "")
    if kind.upper() not in KINDS:
        raise EndpointError(
            f"sql: expected a statement that reads, one of {', '.join(KINDS)}, was {kind[:40]!r}"
        )
    _check_kinds(words)
    for name, following in zip(words, [*words[1:], ""], strict=True):
        if following == "(" and FUNCTION.fullmatch(name.rpartition(".")[2]):
            raise EndpointError(f"sql: expected functions of tables and values, was {name[:40]}()")


def _check_kinds(words: list[str]) -> None:
    upper = [word.upper() for word in words]
    if upper[0] == "EXPLAIN" and not set(upper[1:2]) <= {"SELECT", "WITH", "DECLARE", "("}:
        raise EndpointError("sql: expected EXPLAIN of a SELECT")
    for at, word in enumerate(upper):
        if word == "SHOW" and (at == 0 or upper[at - 1] == "("):
            shown = upper[at + 1] if at + 1 < len(upper) else ""
            if shown not in SHOWN:
                raise EndpointError(f"sql: expected SHOW of {', '.join(SHOWN)}, was {shown[:40]!r}")
        if word == ";" and at + 1 < len(upper):
            raise EndpointError("sql: expected one statement, was more after ';'")


def _words(text: str) -> list[str]:
    words = []
    for found in TOKEN.finditer(text):
        kind = found.lastgroup
        if kind == "other" and found["other"] in "'\"":
            raise EndpointError(f"sql: expected a closing {found['other']}, was none")
        if kind == "other" and text.startswith("/*", found.start()):
            raise EndpointError("sql: expected a closing */, was none")
        if kind in ("word", "quoted", "other"):
            words.append(found[kind])
    if not words:
        raise EndpointError("sql: expected a statement, was none")
    return words
