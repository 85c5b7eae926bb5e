"""Checks users' SQL: only statements that read tables are passed to the database.

The read-only database user cannot write tables, but may export files, list folders, empty caches
and change its own time-out. So the kinds of statements and the functions are limited.
"""

from __future__ import annotations

import re
from itertools import pairwise

from coinspace.errors import StorageError
from coinspace.storage.read.endless import check_endless

SIZE_LIMIT = 100_000
# words that names of WITH and DECLARE add where the server replaces them by their definitions. A
# name that uses the one before twice doubles them: 24 such names stop the server, which compiles
# without a time-out.
GROWTH_LIMIT = 3000
KINDS = ("SELECT", "WITH", "EXPLAIN", "SHOW", "DECLARE")
SHOWN = ("TABLES", "COLUMNS", "PARTITIONS", "CREATE")
# The names that may come before a parenthesis: words of the language and types, then functions of
# values, aggregates and windows, then functions that list tables. All other functions, also of
# later servers, may read files, change the server, show its internals or allocate memory.
ALLOWED = """
align all and any array as asof between by case cast cross declare distinct else end except exists
explain fill filter for format from full group having in inner intersect is join latest left
limit lt not offset on or order outer over partition pivot right sample select splice then to
tolerance union unnest unpivot using values when where window with within
decimal geohash numeric varchar

abs acos array_avg array_count array_cum_sum array_elem_avg array_elem_max
array_elem_min array_elem_sum array_max array_min array_position array_reverse array_sort
array_stddev array_stddev_pop array_stddev_samp array_sum asin atan atan2 base64 ceil ceiling
coalesce concat cos cot current_catalog current_database current_schema current_schemas
current_user date_trunc dateadd datediff day day_of_week day_of_week_sunday_first days_in_month
degrees dim_length dot_product exp extract flatten floor from_base64
geo_distance_meters greatest hour insertion_point interval interval_end interval_start
is_leap_year json_extract l2price least length length_bytes ln log long_sequence lower lpad
ltrim make_geohash md5 micros mid millis minute month nanos netmask now now_ns nullif pi
position power quote_ident radians replace round round_down round_half_even
round_up rpad rtrim second sha1 sha256 shift sign sin size_pretty split_part spread spread_bps
sqrt starts_with strpos substring switch sysdate systimestamp systimestamp_ns tan
timestamp_ceil timestamp_floor timestamp_sequence timestamp_sequence_ns to_char to_date
to_long128 to_long256 to_lowercase to_pg_date to_str to_timestamp to_timestamp_ns to_timezone
to_uppercase to_utc to_uuid today tomorrow transpose trim typeof upper version week_of_year wmid
year yesterday geo_within_radius_latlon within_box within_radius

approx_count_distinct approx_median approx_percentile arg_max arg_min avg bit_and bit_or bit_xor
bool_and bool_or corr count count_distinct covar_pop covar_samp first first_not_null geomean
haversine_dist_deg isordered ksum last last_not_null max min mode nsum regr_intercept regr_slope
stddev stddev_pop stddev_samp string_agg string_distinct_agg sum twap var_pop var_samp variance
vwap weighted_avg weighted_stddev weighted_stddev_freq weighted_stddev_rel
dense_rank first_value lag last_value lead percent_rank rank row_number

all_tables functions keywords materialized_views table_columns table_partitions table_storage
tables views wal_tables wal_transactions
"""
CALLED = frozenset(ALLOWED.split())
# Rows that no table has. The time-out does not end a search in them such as `IN (SELECT …)` of
# symbols, or the reading of a PIVOT's values.
SEQUENCE = "long_sequence"
SEQUENCE_LIMIT = 10_000_000
# functions that the server also calls by their name alone, in place of a table or a column
INSIDE = re.compile(
    r"\w+_activity|(?:reader|writer)_pool|memory_metrics|table_writer_metrics|checkpoint_status"
    r"|(?:import|export)_files|(?:pg|dump|flush|reload|hydrate)_\w+|current_data_id|session_user"
    r"|txid_current",
    re.IGNORECASE,
)
# Functions that look for their second argument in the first: without a time-out, and in time of the
# product of both lengths. Texts can be made long, as by `rpad`.
SEARCHES = frozenset({"position", "replace", "split_part", "strpos"})
SEARCHED_LIMIT = 100
SYMBOL = re.compile(r"[\W\d]")
# Texts for LIKE that need time in proportion to the length of a value. The server makes a regular
# expression of others, and the time-out of a query does not end the search for one.
LIKE = re.compile(r"%?[^%]*%?|[^%]+%[^%]*%?")
# comments and text first: their content is not part of the statement
TOKEN = re.compile(
    r"(?P<gap>\s+|--[^\r\n]*|/\*.*?\*/)"
    r"|(?P<text>'(?:[^']|'')*')"
    r'|"(?P<quoted>[^"]*)"'
    r"|(?P<word>[^\W\d]\w*(?:\.[^\W\d]\w*)*)"
    r"|(?P<other>.)",
    re.DOTALL,
)


def check(text: str) -> str:
    """Check one statement, and return it without its comments.

    The server nests comments and reads quotes in them, so that it would find another end of one
    than this lexer does, and run what the lexer took for the inside of a comment or a text.
    Raises: StorageError for anything that is not allowed.
    """
    if len(text) > SIZE_LIMIT:
        raise StorageError(f"sql: expected at most {SIZE_LIMIT} characters, was {len(text)}")
    if not _is_utf8(text):
        raise StorageError("sql: expected text in UTF-8, was other bytes")
    if "\0" in text:
        raise StorageError("sql: expected text without NUL, since the server ignores the rest")
    words, texts, names, without = _read(text)
    check_endless(
        [(one.lastgroup or "", one[0]) for one in TOKEN.finditer(text) if one.lastgroup != "gap"]
    )
    _check_growth(names)
    _check_searches(text)
    kind = next((word for word in words if word != "("), "")
    if kind.upper() not in KINDS:
        raise StorageError(
            f"sql: expected a statement that reads, one of {', '.join(KINDS)}, was {kind[:40]!r}"
        )
    _check_kinds(words)
    for at, (name, following) in enumerate(zip(words, [*words[1:], ""], strict=True)):
        plain = name.rpartition(".")[2]
        if following == "(" and plain.lower() == SEQUENCE:
            _check_sequence(words, at + 2)
        called = following == "(" and not SYMBOL.fullmatch(name) and plain.lower() not in CALLED
        if called or INSIDE.fullmatch(plain):
            raise StorageError(f"sql: expected functions of tables and values, was {name[:40]!r}")
    for one in texts:
        # a text names a table, too
        if INSIDE.fullmatch(one.rpartition(".")[2]):
            raise StorageError(f"sql: expected a text that names no function, was {one[:40]!r}")
    return without


def _is_utf8(text: str) -> bool:
    # Python keeps bytes of the command line that are not UTF-8 as lone surrogates
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _check_kinds(words: list[str]) -> None:
    upper = [word.upper() for word in words]
    plain = [word for word in upper if word != "("]
    if plain[0] == "EXPLAIN" and not set(plain[1:2]) <= {"SELECT", "WITH", "DECLARE", "FORMAT"}:
        raise StorageError("sql: expected EXPLAIN of a SELECT")
    for at, word in enumerate(upper):
        # DECLARE may come before it
        if word == "SHOW":
            shown = upper[at + 1] if at + 1 < len(upper) else ""
            if shown not in SHOWN:
                raise StorageError(f"sql: expected SHOW of {', '.join(SHOWN)}, was {shown[:40]!r}")
        if word == ";" and at + 1 < len(upper):
            raise StorageError("sql: expected one statement, was more after ';'")


def _check_searches(text: str) -> None:
    """Check that functions look for short texts only."""
    # open parentheses: whether the arguments are those of a search, the number of those that have
    # ended, and the tokens of the present one
    opened: list[tuple[bool, int, list[str]]] = []
    before = ""
    for found in TOKEN.finditer(text):
        token = found[0]
        if found.lastgroup == "gap":
            continue
        if token in (")", "]", ",") and opened:
            searches, ended, argument = opened.pop()
            if searches and (ended == 1 or (ended == 0 and token == ")")):
                _check_searched(argument if ended else [])
            if token == ",":
                opened.append((searches, ended + 1, []))
        elif opened and len(opened[-1][2]) < 2:
            opened[-1][2].append(token)
        if token in ("(", "["):
            name = before.strip('"').rpartition(".")[2].lower()
            opened.append((token == "(" and name in SEARCHES, 0, []))
        before = token


def _check_searched(argument: list[str]) -> None:
    (token, *more) = argument or [""]
    if more or not token.startswith("'") or len(token) > SEARCHED_LIMIT + 2:
        raise StorageError(
            f"sql: expected {', '.join(sorted(SEARCHES))} of a text up to {SEARCHED_LIMIT}"
            f" characters as the second argument, was {token[:40]!r}"
        )


def _check_sequence(words: list[str], begin: int) -> None:
    """Check the argument of a sequence, which begins at a word: its number of rows."""
    end = next((at for at in range(begin, len(words)) if words[at] == ")"), begin)
    digits = "".join(words[begin:end]).replace("_", "")
    if not (re.fullmatch(r"[0-9]{1,12}", digits) and int(digits) <= SEQUENCE_LIMIT):
        raise StorageError(
            f"sql: expected {SEQUENCE}(N) of a number up to {SEQUENCE_LIMIT}, was {digits[:40]!r}"
        )


def _check_growth(names: list[str]) -> None:
    """Check how long a statement becomes with the definitions in place of their names."""
    # the server's capital dotted I is a small i
    plain = [name.replace("\u0130", "i").lower() for name in names]
    sizes: dict[str, int] = {}
    # definitions that have not ended: name, of a variable?, depth of parentheses, size before
    opened: list[tuple[str, bool, int, int]] = []
    depth = size = variables = 0
    for at, word in enumerate(plain):
        declares = word == "@" and plain[at + 2 : at + 4] == [":", "="]
        depth -= word == ")"
        while opened and _ends(word, declares, depth, *opened[-1][1:3]):
            name, _, _, before = opened.pop()
            sizes[name] = max(sizes.get(name, 0), size - before)
        if declares:
            opened.append((plain[at + 1], True, depth, size))
            variables += 1
        elif word == "(":
            if at > 1 and plain[at - 1] == "as":
                opened.append((plain[at - 2], False, depth, size))
            depth += 1
        size += 1 + sizes.get(word, 0)
        if size > len(plain) + GROWTH_LIMIT:
            raise StorageError(
                "sql: expected names of WITH or DECLARE that are used a few times, was a statement"
                f" of more than {GROWTH_LIMIT} words with their definitions"
            )
    if variables != sum(pair == (":", "=") for pair in pairwise(plain)):
        raise StorageError("sql: expected variables of letters and digits such as @x")


def _ends(word: str, declares: bool, depth: int, variable: bool, begun: int) -> bool:
    """Return whether a word ends the definition that began at a depth of parentheses."""
    if variable and (declares or word in ("select", "with")):
        return depth <= begun
    return word == ")" and depth < begun + (not variable)


def _check_like(before: str, like: bool, kind: str | None, token: str) -> None:
    """Check a token. Args: before: the token before it; like: whether that one follows LIKE."""
    if before.strip('"').upper() in ("LIKE", "ILIKE"):
        short = len(token) <= SEARCHED_LIMIT + 2
        good = short and kind == "text" and LIKE.fullmatch(token[1:-1]) is not None
    else:
        good = not like or token not in "|:+-"
    if not good:
        raise StorageError(
            "sql: expected LIKE with one short text such as 'KRW-%', '%/KRW', '%BTC%' or 'a%b', was"
            f" {token[:40]!r}"
        )
    if token == "~":
        raise StorageError("sql: expected LIKE, since the server cannot end a regular expression")


def _read(text: str) -> tuple[list[str], list[str], list[str], str]:
    """Return a statement's words, its texts, both in order, and the statement without comments."""
    words, texts, both, parts = [], [], [], []
    before, like = "", False
    for found in TOKEN.finditer(text):
        kind = found.lastgroup
        if found[0] == "`" or (found[0] == "(" and before.startswith("'")):
            # the server takes both for the name of a table or a function
            raise StorageError("sql: expected names without quotes, or in double ones")
        if kind != "gap":
            _check_like(before, like, kind, found[0])
            like = before.strip('"').upper() in ("LIKE", "ILIKE")
            before = found[0]
        if kind == "other" and found["other"] in "'\"":
            raise StorageError(f"sql: expected a closing {found['other']}, was none")
        if kind == "other" and text.startswith("/*", found.start()):
            raise StorageError("sql: expected a closing */, was none")
        if kind in ("word", "quoted", "other"):
            words.append(found[kind])
            both.append(found[kind])
        elif kind == "text":
            texts.append(found[kind][1:-1])
            both.append(texts[-1])
        parts.append(" " if kind == "gap" else found[0])
    if not words:
        raise StorageError("sql: expected a statement, was none")
    return words, texts, both, "".join(parts).strip()
