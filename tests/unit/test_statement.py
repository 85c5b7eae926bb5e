"""SQL of users: statements that read tables are passed on, all others are refused."""

from __future__ import annotations

from itertools import pairwise

import pytest

from coinspace.errors import StorageError
from coinspace.storage.read.statement import check

READING = [
    "SELECT 1",
    "  select * from trade limit 3 ;",
    "-- a comment; drop table gap\nselect 1",
    "/* copy */ (select 1) union (select 2)",
    "with x as (select 1) select * from x",
    "explain select * from trade",
    "EXPLAIN WITH x AS (SELECT 1) SELECT * FROM x",
    "declare @x := 1 select @x",
    "show tables",
    "SHOW COLUMNS FROM trade",
    "show create table trade",
    "select * from (show columns from trade)",
    "select 'files(''.'')', \"copy\" from trade",
    "select count(), files from trade",
    "select '; set statement_timeout=0' x",
    "select market, avg(price) from trade where market = '비트/KRW' sample by 1h",
    "select * from table_columns('trade')",
    "select * from wal_tables()",
    "select 1 -- files('.')",
    "select (1 + 2) * (3), -(price) from trade where price in (1, 2) and not (price > 3)",
    "select PG_CATALOG.version(), typeOf(price) from trade",
    "select price, row_number() over (partition by market order by ts) from trade",
    "select * from a join (b) on (a.x = b.x) asof join c tolerance 1s",
    "select cast(price as decimal(10, 2)) from trade",
    "explain (format json) select 1",
    *(
        f"select * from trade where market {word} '{text}' and price > 1"
        for word in ("like", "NOT ILIKE")
        for text in ("KRW-%", "%/KRW", "%BTC%", "%", "", "a_c", "a%b", "a%b%")
    ),
    "select '%a%b', a.like from trade a",
    "declare @a := 1, @b := (@a + @a) * 2, @c := @b, @d := @c + @c select @a, @b, @c, @d, @d",
    "with a as (select 1 x), b as (select x from a), c as (select x from a join b on x = b.x)"
    " select * from c, a, b where x in (select x from c)",
    "select strpos(market, 'it''s'), replace(a[1, 2], '-', b || c), split_part(left(b, 2), '/', 1)",
    f"select replace(market, '{'a' * 100}', 'b') from trade where market like '%{'a' * 98}%'",
    "select * from long_sequence(9), pg_catalog.long_sequence ( 10_000_000 )",
    *(
        f"select * from trade where ts in {times} and price > 1"
        for times in (
            "'2026-01'",
            "('2026-01-[01..31]T[09..17]:30')",
            "'2026-[01,03,05]-[01..05, 07]'",
            "today()",
            "interval('2026-01-01', now())",
            "(('2026-01'))",
            "('[1000..9999]-[01..12]-[01..31]', '2026')",
            "(dateadd('d', -1, now()), now())",
        )
    ),
    *(f"select 1 from trade where price not in {one}" for one in ("(1)", "(-1.5, x)", "(null)")),
    "select * from trade where market in (select concat(a, b) from t) or market in (lower(a), b)",
    "select * from trade pivot (avg(price) for market in ('BTC/KRW' as btc, 'ETH/KRW' as eth))",
    "select ts, avg(price) from trade where market = 'x' sample by 1m fill(prev)",
    "select first_value(price) ignore nulls over (order by ts rows between unbounded preceding"
    " and current row), last_value(price) ignore nulls over (partition by market order by ts)"
    " from trade",
    "select avg(price) over (order by ts rows between 9 preceding and current row) from trade",
    "select splice, ignore from a lt join b on (x)",
    "select ts, sum(size) s from trade sample by 1d from '2026' to '2027' fill(0) limit 100;",
    "select * from trade where market in (" + ", ".join("'KRW-BTC'" for _ in range(5000)) + ")",
]
MATCHING = (
    *("'%a%b'", "'%a%b%'", "'a%b%c'", "'%%a'", "'a' || '%b%c'", "'a'::text", "concat('%a', '%b')"),
    *("@pattern", "('a%')", "market", "'a'/* x */|| '%b%c'"),
)


def declared(n: int) -> str:
    """Return a statement whose last variable means 2 ** n numbers."""
    more = "".join(f", @a{i} := (@a{i - 1} + 1) * @A{i - 1}" for i in range(1, n))
    return f"declare @a0 := 1{more} select @a{n - 1}"


def named(n: int, quote: str = "") -> str:
    """Return a statement whose last name means 2 ** n tables."""
    names = [f"{quote}{one}{i}{quote}" for i, one in enumerate("aA" * n)][:n]
    more = "".join(
        f", {b} as (select x from {a} join {a} t on x = t.x)" for a, b in pairwise(names)
    )
    return f"with {names[0]} as (select x from trade){more} select x from {names[-1].lower()}"


OTHERS = [
    "",
    " ; ",
    "-- nothing",
    "COPY trade TO 'out' WITH FORMAT PARQUET",
    "copy (select 1) to 'out' with format parquet",
    "/* x */ copy trade to 'out'",
    "set statement_timeout=0",
    "select 1; set statement_timeout=0",
    "select 1;;",
    "(copy trade to 'x')",
    "select * from files('.')",
    "select * from 'files'('.')",
    "select * from `files`('.')",
    "select 1 `'`, f.* from files('/etc') f --'",
    "select count() `'` from trade where market ~ '(a+)+$' --'",
    "select * from FILES ('.')",
    "select * from files/* x */('.')",
    "select * from files -- x\n('.')",
    "select * from \"files\"('.')",
    "select * from import_files()",
    "select * from export_files()",
    "select * from read_parquet('/etc/passwd')",
    "select (select flush_query_cache())",
    "select reload_config()",
    "select pg_catalog.pg_sleep(100)",
    "with x as (select * from files('.')) select * from x",
    "explain copy trade to 'x'",
    "explain update trade set price = 0",
    "(explain update trade set price = 0)",
    "explain (copy trade to 'x')",
    "explain show parameters",
    "declare @x := 1 show parameters",
    "declare @x := 1 (show parameters)",
    "select flush_query_cache",
    "select 1, Dump_Memory_Usage from trade",
    'select ("reload_config")',
    # the server does not end them in time
    "select market ~ '(a*)*b' from trade",
    "select market!~'x' from trade",
    "select regexp_replace(market, 'a', 'b') from trade",
    *(f"select * from trade where market LIKE {text}" for text in MATCHING),
    "select * from trade where market \"like\" '%a%b'",
    "select like(market, '%a%b') from trade",
    "select \"like\"(market, '%a%b') from trade",
    *(
        f"select 1 from trade where market in (select x::string from {rows})"
        for rows in (
            "long_sequence(1000000000000)",
            'pg_catalog."Long_Sequence"/* x */(10_000_001)',
            "long_sequence(1e13)",
            f"long_sequence({'0' * 30}1000000000000)",
            "long_sequence(9 * 999999999999)",
            "long_sequence((select 999999999999))",
            "long_sequence(",
            "generate_series(1, 9000000000000000000, 1)",
        )
    ),
    # and of texts with a million characters
    *(
        f"select {call} from trade"
        for call in (
            "strpos(rpad('a', 500000, 'a'), rpad('a', 250000, 'a') || 'b')",
            "Position(market, 'a' || market)",
            'split_part(market, ("market"), 1)',
            "\"replace\" (market, rpad('a', 500000), 'b')",
            "replace(a['x', 'x'], market, 'b')",
            "strpos(position(market, 'a'), market)",
            "strpos(market)",
            f"strpos(market, '{'a' * 101}')",
            f"market like '%{'a' * 101}%'",
        )
    ),
    "select dim_length(matmul(bids, bids), 1) from orderbook",
    "select * from trade pivot (sum(price) for x in (select 1 from long_sequence(1000000000000)))",
    # it makes the list of times before its time-out counts
    *(
        f"select 1 from trade where ts in {times}"
        for times in (
            "'[1000..9999]-[01..12]-[01..31]'",
            "('[1000..9999]-[01..12]-[01..31]')",
            "(('[1000..9999]-[01..12]-[01..31]'))",
            "'2026-01-01T00:00:00.[000000..999999]'",
            "'[[1000..9999]]-[01..12]-[01..31]'",
            f"'[{'1,' * 900}1]-[{'1,' * 900}1]'",
            "'[$today - 100000000d..$today]'",
            "'$today..$today+1000000d'",
            "('[1000..' || '9999]-[01..12]-[01..31]')",
            "'[1000..' || '9999]-[01..12]-[01..31]'",
            "concat('[1000..', '9999]-[01..12]-[01..31]')",
            "(concat('[1000..', '9999]-[01..12]-[01..31]'))",
            "(('[1000..') || '9999]-[01..12]-[01..31]')",
            "@times",
            "(@times)",
            "c",
            "(c)",
            '"null"',
            "\"'c'\"",
            '"2026"',
            "(",
            "",
        )
    ),
    *(
        f"select {outer} (select ts, avg(price) p from trade sample by 1n fill({how}))"
        for outer in ("count() from", "* from", "1 from trade where price in")
        for how in ("prev", "null", "0")
    ),
    *(
        f'{head} ts, avg(price) p from trade sample by 1n "fill"(null) {tail}'
        for head, tail in (
            ("select distinct", ""),
            ("select", "limit -5"),
            ("select", "limit 1000000000000, 1000000000001"),
            ("select", "union select 1, 2"),
            ("with x as (", ") select * from x"),
        )
    ),
    "show parameters",
    "select * from (show parameters)",
    "select * from ( /* x */ show parameters)",
    "select * from dump_memory_usage()",
    "select dump_thread_stacks()",
    "select simulate_crash('0')",
    "select hydrate_table_metadata('*')",
    "select * from query_activity()",
    "select touch((select * from trade))",
    "cancel query 1",
    "checkpoint create",
    "drop table gap",
    "insert into gap(ts) values (now())",
    "alter table gap set ttl 1 day",
    "select 'open",
    'select "open',
    "select 1 /* open",
    "select " + "1," * 100_000 + "1",
    "\0",
    "select 1 \0",
    # the server ends a comment at a carriage return as well
    "select 1 --\r, flush_query_cache()",
    "select * from glob('/etc/*')",
    "select * from parquet_scan('x.parquet')",
    "select cancel_query(1)",
    "select wait_wal_table('gap')",
    "select rnd_str(1, 1000000000, 0)",
    "select no_such_function(1)",
    "select * from \"glob\" ('/etc/*')",
    "select * from pg_catalog . glob('/etc/*')",
    # tables that need no parenthesis
    "select * from memory_metrics",
    "select * from trade cross join Query_Activity",
    'select * from "reader_pool"',
    "with x as (writer_pool) select * from x",
    "select * from pg_catalog.pg_roles",
    # a text names a table as well
    "select * from 'query_activity'",
    "select * from 'pg_catalog.PG_CLASS'",
    "declare @x := 'memory_metrics' select * from @x",
    "trade",
    # the server would compile these for hours
    *(declared(n) for n in (24, 60, 1000)),
    *(named(n, quote) for n in (12, 40) for quote in ("", '"', "'")),
    f"select * from ({named(20)})",
    declared(24).replace("@a", "@a$").replace("@A", "@a$"),
]
# the server nests comments, and reads quotes in them
HIDING = [
    (
        "select 1 /* ' */ ' */, flush_query_cache() -- '",
        "select 1   ' */, flush_query_cache() -- '",
    ),
    (
        'select 1 /* " */ " */, flush_query_cache() -- "',
        'select 1   " */, flush_query_cache() -- "',
    ),
    ("/* /* */ select */ show tables", "select */ show tables"),
    ("select 1 -- it's so\n, 2", "select 1   , 2"),
    ("select 1-/* */-1", "select 1- -1"),
    ("select '/* -- */' x", "select '/* -- */' x"),
]


@pytest.mark.parametrize("text", READING)
def test_reading_statements_are_passed_on(text: str) -> None:
    check(text)


@pytest.mark.parametrize("text", OTHERS, ids=lambda text: repr(text[:40]))
def test_other_statements_are_refused_in_one_line(text: str) -> None:
    with pytest.raises(StorageError) as caught:
        check(text)
    assert len(str(caught.value)) < 300
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(("text", "sent"), HIDING, ids=lambda text: repr(text[:40]))
def test_the_server_is_sent_no_comment(text: str, sent: str) -> None:
    assert check(text) == sent


def test_a_statement_that_is_not_text_is_refused() -> None:
    with pytest.raises(StorageError, match="expected text in UTF-8"):
        check("select '\ud800'")
