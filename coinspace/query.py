"""`coinspace query`: read from a running endpoint, or from the database directly."""

from __future__ import annotations

import asyncio
import codecs
import csv
import difflib
import importlib
import io
import shutil
import sys
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import click
import orjson

from coinspace.clock import MILLISECOND_NS, now_ns
from coinspace.config import Settings, config_option, load
from coinspace.endpoint.history import bulk
from coinspace.errors import EndpointError
from coinspace.instant import instant_ms
from coinspace.listing import flattened, text_of
from coinspace.text import for_terminal, json_line

FORMATS = ("table", "json", "csv", "arrow", "parquet")
MEDIA = {"csv": bulk.CSV, "arrow": bulk.ARROW, "parquet": bulk.PARQUET}
# query -> (route, its parameters); {} is the subject
SUBJECTS: dict[str, tuple[str, tuple[str, ...]]] = {
    "indices": ("/v1/indices", ()),
    "index": ("/v1/indices/{}", ()),
    "values": ("/v1/indices/{}/values", ("start", "end", "limit")),
    "ohlc": ("/v1/indices/{}/ohlc", ("start", "end", "limit", "interval")),
    "explain": ("/v1/indices/{}/explain", ("ts",)),
    "premium": ("/v1/premium/{}", ("size",)),
    "premiums": (
        "/v1/premiums",
        ("min", "max", "sort", "order", "basis", "window", "search", "limit"),
    ),
    "premium-stats": ("/v1/premium/{}/stats", ()),
    "premium-values": ("/v1/premium/{}/values", ("start", "end", "limit")),
    "premium-ohlc": ("/v1/premium/{}/ohlc", ("start", "end", "limit", "interval", "basis")),
    "usd-krw": ("/v1/usd-krw", ()),
    "orderbook": ("/v1/orderbooks/{}", ("levels", "at", "within")),
    "books": ("/v1/orderbooks/{}/history", ("start", "end", "limit", "levels")),
    "tickers": ("/v1/tickers", ("exchange", "market")),
    "trades": ("/v1/trades", ("exchange", "market", "start", "end", "limit")),
    "assets": ("/v1/assets", ()),
    "markets": ("/v1/markets", ("exchange", "quote")),
    "venues": ("/v1/venues", ()),
    "gaps": ("/v1/gaps", ("exchange", "market", "start", "end", "limit")),
    "methodology": ("/v1/methodology", ()),
    "pipeline": ("/v1/pipeline", ()),
    "sql": ("{}", ("limit",)),
}
BULK = ("values", "ohlc", "premium-values", "premium-ohlc", "trades", "books", "sql")
# queries whose answer is a list of objects -> its name, and the client's class of one
LISTS = {
    "indices": "indices",
    "premiums": "premiums",
    "tickers": "tickers",
    "assets": "assets",
    "markets": "markets",
    "venues": "venues",
    "gaps": "gaps",
    "pipeline": "processes",
}
KINDS = {
    "indices": "IndexValue",
    "premiums": "RankedPremium",
    "tickers": "Ticker",
    "assets": "Asset",
    "markets": "Market",
    "venues": "Venue",
    "gaps": "Gap",
    "pipeline": "ProcessHealth",
}
# limits of an answer that is kept in memory, and of the rows of a list
ANSWER_BYTES = 1 << 30
ROWS_LIMIT = 1_000_000
# a server must not keep the command asking for ever
PAGES_LIMIT = 10_000
# queries that the database can answer; the others need a running endpoint
STORED = (
    "values", "ohlc", "premium-values", "premium-ohlc", "explain", "orderbook", "books", "trades",
    "gaps", "methodology", "sql",
)  # fmt: skip


def endpoint_url(settings: Settings) -> str:
    """Return where this machine's endpoint serves."""
    written = settings.data / "run" / "index-endpoint.url"
    if written.is_file():
        return written.read_text().strip()
    return settings.endpoint.url


class _What(click.Choice[str]):
    """What to ask for."""

    def get_invalid_choice_message(self, value: Any, ctx: click.Context | None) -> str:
        near = difflib.get_close_matches(str(value), SUBJECTS, n=2)
        hint = f" Did you mean {' or '.join(near)}?" if near else ""
        return super().get_invalid_choice_message(value, ctx) + hint


@click.command()
@click.argument("what", type=_What(list(SUBJECTS)), metavar="WHAT")
@click.argument("subject", required=False)
@click.option("--format", "form", type=click.Choice(FORMATS), default=None, help="output format")
@click.option("--json", "as_json", is_flag=True, help="same as --format json")
@click.option("--output", type=click.Path(), default="-", help="file, - for stdout")
@click.option("--database", is_flag=True, help="read the database directly, without an endpoint")
@click.option("--start", help="epoch ms or ISO 8601 with a zone")
@click.option("--end", help="epoch ms or ISO 8601 with a zone; not part of the range")
@click.option("--ts", help="instant of an explanation")
@click.option("--at", help="instant of a past order book")
@click.option("--interval", help="1s, 1m, 5m, 1h or 1d")
@click.option("--exchange", help="only this exchange")
@click.option("--market", help="only this market, BASE/QUOTE")
@click.option("--levels", type=int, help="levels per side")
@click.option("--within", type=float, help="also the depth within this percentage of the mid price")
@click.option("--size", type=float, help="premium after fees when this size is traded")
@click.option("--quote", help="only markets with this quote currency")
@click.option("--min", type=float, help="only premiums of at least this fraction; 0.01 is 1 %")
@click.option("--max", type=float, help="only premiums of at most this fraction")
@click.option("--sort", help="premium, asset, age, change_1h, percentile, left, …")
@click.option("--basis", help="of premiums: coin (against USDT) or fiat (against USD)")
@click.option("--window", help="of --sort percentile: 1h, 24h, 7d, 30d or 90d")
@click.option("--search", help="only assets whose name has this text")
@click.option("--order", help="asc or desc")
@click.option("--limit", type=click.IntRange(min=1), help="rows")
@click.option("--url", help="the endpoint; by default this machine's")
@click.option("--key", envvar="COINSPACE_KEY", help="API key (better in $COINSPACE_KEY)")
@config_option
def query(
    what: str,
    subject: str | None,
    form: str | None,
    as_json: bool,
    output: str,
    database: bool,
    url: str | None,
    key: str | None,
    config_path: str | None,
    **given: Any,
) -> None:
    """Print indices, books and history.

    WHAT is one of those in the examples below. SUBJECT is an asset (BTC), EXCHANGE/BASE/QUOTE for a
    single venue's order book, or the statement of `query sql "SELECT …"`, which runs as the
    database's read-only user. Option --database reads stored data without an endpoint.
    """
    route, parameters = _question(what, subject, database, given)
    ending = "table" if output == "-" else Path(output).suffix.removeprefix(".")
    form = "json" if as_json else form or (ending if ending in FORMATS else "json")
    if form in MEDIA and what not in (*BULK, *LISTS):
        raise EndpointError(
            f"query {what}: expected table or json, was {form}; a table comes of"
            f" {', '.join((*BULK, *LISTS))}"
        )
    if form in ("arrow", "parquet") and output == "-" and sys.stdout.isatty():
        raise EndpointError(f"{form} is binary: expected --output FILE or a pipe")
    settings = load(config_path)

    def ask(given: dict[str, Any], media: str) -> Iterator[bytes]:
        if not database:
            return _ask(url or endpoint_url(settings), key, route, given, media)
        from coinspace.endpoint.history.local import answer

        return _iterate(answer(settings, route, given, media))

    if what in LISTS and form in MEDIA:
        rows = _all_rows(LISTS[what], parameters, lambda given: ask(given, bulk.JSON))
        _write(output, [encoded(what, rows, form)])
        return
    if what == "sql":
        from coinspace.endpoint.history.local import select

        parts = _iterate(select(settings, route, MEDIA.get(form), parameters.get("limit")))
    else:
        parts = ask(parameters, MEDIA.get(form, bulk.JSON))
    if form in MEDIA:
        _write(output, parts)
        return
    body = _object(parts)
    if form == "table" and output == "-":
        click.echo(render(body), nl=False)
    elif form == "table":
        _write(output, [render(body, output).encode()])
    else:
        _write(output, [json_line(body, orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE)])


def _question(
    what: str, subject: str | None, database: bool, given: dict[str, Any]
) -> tuple[str, dict[str, Any]]:
    # the route with its subject, and the parameters that were given
    route, takes = SUBJECTS[what]
    if "{}" in route and not subject:
        wanted = "a SELECT statement" if what == "sql" else "an asset such as BTC"
        raise EndpointError(f"query {what}: expected {wanted}, was none")
    if "{}" not in route and subject:
        raise EndpointError(f"query {what}: expected no subject, was {subject!r}")
    parameters = {name: value for name, value in given.items() if value is not None}
    for name in parameters:
        if name not in takes:
            known = ", ".join(f"--{one}" for one in takes) or "none"
            raise EndpointError(f"query {what}: --{name} is not an option of it, expected {known}")
    for name in ("start", "end", "ts", "at"):
        if name in parameters:
            try:
                instant_ms(parameters[name])
            except ValueError as error:
                raise EndpointError(f"--{name}: {error}") from None
    if database:
        _check_stored(what, parameters)
    return route.format(subject), parameters


def _check_stored(what: str, parameters: dict[str, Any]) -> None:
    if what not in STORED:
        raise EndpointError(
            f"query {what} --database: expected one of {', '.join(STORED)}; the newest {what} is"
            " only known to a running endpoint"
        )
    if what == "orderbook" and "at" not in parameters:
        raise EndpointError("query orderbook --database: expected --at, was none")
    if what == "trades" and not parameters.keys() & {"start", "end"}:
        # without a range the route returns the newest trades on the bus
        parameters["end"] = str(now_ns() // MILLISECOND_NS)


def _ask(
    url: str, key: str | None, route: str, parameters: dict[str, Any], media: str
) -> Iterator[bytes]:
    from coinspace.client import Client

    with Client(url, key=key) as client:
        yield from client.chunks(route, accept=media, **parameters)


def _all_rows(
    name: str, parameters: dict[str, Any], ask: Callable[[dict[str, Any]], Iterator[bytes]]
) -> list[dict[str, Any]]:
    """Return the rows of all pages of a list, or of one page with `limit` rows."""
    rows: list[dict[str, Any]] = []
    given = parameters
    for _ in range(PAGES_LIMIT):
        body = _object(ask(given))
        rows += _list(body, name)
        if "limit" in parameters or not body.get("next"):
            return rows
        if len(rows) > ROWS_LIMIT:
            raise EndpointError(f"expected at most {ROWS_LIMIT:,} {name}; take a shorter range")
        given = {key: one[0] for key, one in parse_qs(urlsplit(str(body["next"])).query).items()}
    raise EndpointError(f"expected at most {PAGES_LIMIT:,} pages; take a shorter range")


def _object(parts: Iterable[bytes]) -> dict[str, Any]:
    """Return an answer that is read into memory. Raises: EndpointError unless it is an object."""
    found = bytearray()
    for part in parts:
        found += part
        if len(found) > ANSWER_BYTES:
            raise EndpointError(
                f"answer: expected at most {ANSWER_BYTES} bytes; take a shorter range"
            )
    try:
        body = orjson.loads(found)
    except orjson.JSONDecodeError:
        raise EndpointError(f"answer: expected JSON, was {bytes(found[:60])!r}") from None
    if not isinstance(body, dict):
        raise EndpointError(f"answer: expected a JSON object, was {type(body).__name__}")
    return body


def _list(body: dict[str, Any], name: str) -> list[dict[str, Any]]:
    found = body.get(name)
    if not isinstance(found, list) or not all(isinstance(one, dict) for one in found):
        raise EndpointError(f"answer: expected a list of {name}, was none")
    return found


def encoded(what: str, rows: list[dict[str, Any]], form: str) -> bytes:
    """Return rows of JSON objects as CSV, Arrow or Parquet; parts are columns `part.field`."""
    if form == "csv":
        flat = [flattened(row) for row in rows]
        names = list(dict.fromkeys(name for row in flat for name in row))
        text = io.StringIO()
        writer = csv.writer(text)
        writer.writerow(names)
        writer.writerows([_csv_cell(row.get(name)) for name in names] for row in flat)
        return text.getvalue().encode()
    from coinspace.client import Rows, answers

    kind = getattr(answers, KINDS[what])
    sink = io.BytesIO()
    table = Rows(kind(row) for row in rows).to_arrow()
    if form == "arrow":
        with importlib.import_module("pyarrow.ipc").new_stream(sink, table.schema) as writer:
            writer.write_table(table)
    else:
        importlib.import_module("pyarrow.parquet").write_table(table, sink, compression="zstd")
    return sink.getvalue()


def _csv_cell(value: Any) -> Any:
    return orjson.dumps(value).decode() if isinstance(value, list | bool) else value


def _iterate(parts: AsyncIterator[bytes]) -> Iterator[bytes]:
    with asyncio.Runner() as runner:
        try:
            while (part := runner.run(_next(parts))) is not None:
                yield part
        finally:
            runner.run(parts.aclose())  # type: ignore[attr-defined]


async def _next(parts: AsyncIterator[bytes]) -> bytes | None:
    return await anext(parts, None)


def _write(output: str, parts: Iterable[bytes]) -> None:
    if output == "-" and sys.stdout.isatty():
        decode = codecs.getincrementaldecoder("utf-8")("replace").decode
        for part in parts:
            sys.stdout.write(for_terminal(decode(part)))
        sys.stdout.flush()
        return
    if output == "-":
        for part in parts:
            sys.stdout.buffer.write(part)
        sys.stdout.buffer.flush()
        return
    # the file appears only when it is complete
    path = Path(output)
    part_path = path.with_name(f".{path.name}.part")
    try:
        with part_path.open("wb") as file:
            file.writelines(parts)
        part_path.replace(path)
    finally:
        part_path.unlink(missing_ok=True)
    click.echo(f"wrote {output}", err=True)


def render(body: dict[str, Any], output: str = "-") -> str:
    """Return an answer as text that fits the terminal; a pipe or file gets every column."""
    fitted = output == "-" and sys.stdout.isatty()
    try:
        return text_of(body, shutil.get_terminal_size().columns if fitted else None)
    except RecursionError:
        raise EndpointError("answer: expected values, found objects nested too deep") from None
