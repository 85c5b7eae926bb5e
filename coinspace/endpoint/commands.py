"""`coinspace query` and `coinspace keys`."""

from __future__ import annotations

import io
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, get_args

import click
import orjson

from coinspace.config import Settings, config_option, load
from coinspace.endpoint import bulk
from coinspace.endpoint import keys as api_keys
from coinspace.endpoint.keys import Keys, Role
from coinspace.endpoint.values import parse_instant
from coinspace.errors import EndpointError

FORMATS = ("table", "json", "csv", "arrow", "parquet")
MEDIA = {"csv": bulk.CSV, "arrow": bulk.ARROW, "parquet": bulk.PARQUET, "json": bulk.JSON}
# what can be asked for -> (route, parameters it takes); {} is the subject
SUBJECTS = {
    "indices": ("/v1/indices", ()),
    "index": ("/v1/indices/{}", ()),
    "values": ("/v1/indices/{}/values", ("start", "end", "limit")),
    "ohlc": ("/v1/indices/{}/ohlc", ("start", "end", "limit", "interval")),
    "explain": ("/v1/indices/{}/explain", ("ts",)),
    "premium": ("/v1/premium/{}", ()),
    "orderbook": ("/v1/orderbooks/{}", ("levels", "at")),
    "tickers": ("/v1/tickers", ("exchange", "market")),
    "trades": ("/v1/trades", ("exchange", "market", "start", "end", "limit")),
    "venues": ("/v1/venues", ()),
    "gaps": ("/v1/gaps", ("exchange", "market", "start", "end", "limit")),
    "methodology": ("/v1/methodology", ()),
    "pipeline": ("/v1/pipeline", ()),
}
BULK = ("values", "ohlc", "trades")
TIMES = ("ts", "received", "exchange_time", "since", "closed")


def endpoint_url(settings: Settings) -> str:
    """Return where this machine's endpoint serves."""
    written = settings.data / "run" / "index-endpoint.url"
    if written.is_file():
        return written.read_text().strip()
    return f"http://{settings.endpoint.host}:{settings.endpoint.port}"


@click.command()
@click.argument("what", type=click.Choice(list(SUBJECTS)))
@click.argument("subject", required=False)
@click.option("--format", "form", type=click.Choice(FORMATS), default=None, help="of the output")
@click.option("--json", "as_json", is_flag=True, help="same as --format json")
@click.option("--output", type=click.Path(), default="-", help="file, - for stdout")
@click.option("--start", help="epoch ms or ISO 8601 with a zone")
@click.option("--end", help="epoch ms or ISO 8601 with a zone; not part of the range")
@click.option("--ts", help="instant of an explanation")
@click.option("--at", help="instant of a past order book")
@click.option("--interval", help="1s, 1m, 5m, 1h or 1d")
@click.option("--exchange")
@click.option("--market")
@click.option("--levels", type=int)
@click.option("--limit", type=int, help="rows of a table or of JSON")
@click.option("--url", help="the endpoint; by default this machine's")
@click.option("--key", envvar="COINSPACE_KEY", help="API key (better in $COINSPACE_KEY)")
@config_option
def query(
    what: str,
    subject: str | None,
    form: str | None,
    as_json: bool,
    output: str,
    url: str | None,
    key: str | None,
    config_path: str | None,
    **given: Any,
) -> None:
    """Print indices, books and history, e.g. `query ohlc BTC --interval 1m --format csv`.

    SUBJECT is an asset (BTC), or EXCHANGE/BASE/QUOTE for a single venue's order book.
    """
    from coinspace.client import Client

    route, takes = SUBJECTS[what]
    if "{}" in route and not subject:
        raise EndpointError(f"query {what}: expected an asset such as BTC, was none")
    if "{}" not in route and subject:
        raise EndpointError(f"query {what}: expected no subject, was {subject!r}")
    parameters = {name: value for name, value in given.items() if value is not None}
    for name in parameters:
        if name not in takes:
            known = ", ".join(f"--{one}" for one in takes) or "none"
            raise EndpointError(f"query {what}: no option --{name} here, expected some of {known}")
    for name in ("start", "end", "ts", "at"):
        if name in parameters:
            try:
                parse_instant(parameters[name])
            except ValueError as error:
                raise EndpointError(f"--{name}: {error}") from None
    form = "json" if as_json else form or ("table" if output == "-" else _form_of(output))
    if form in ("csv", "arrow", "parquet") and what not in BULK:
        raise EndpointError(f"query {what}: expected table or json, was {form}")
    with Client(url or endpoint_url(load(config_path)), key=key) as client:
        accept = MEDIA.get(form, bulk.JSON)
        if accept != bulk.JSON:
            parameters.pop("limit", None)
        body = client.get(route.format(subject), accept=accept, **parameters)
    if form == "table":
        _write(output, render(orjson.loads(body)).encode())
    elif form == "json":
        _write(output, orjson.dumps(orjson.loads(body), option=orjson.OPT_INDENT_2) + b"\n")
    else:
        if output == "-" and form != "csv" and sys.stdout.isatty():
            raise EndpointError(f"{form} is binary: expected --output FILE or a pipe")
        _write(output, body)


def _form_of(output: str) -> str:
    ending = Path(output).suffix.removeprefix(".")
    return ending if ending in FORMATS else "json"


def _write(output: str, data: bytes) -> None:
    if output == "-":
        sys.stdout.buffer.write(data)
        sys.stdout.buffer.flush()
    else:
        Path(output).write_bytes(data)
        click.echo(f"wrote {output}", err=True)


def render(body: dict[str, Any]) -> str:
    """Return an answer as text: its facts, then a table of the list that it holds."""
    from rich.console import Console
    from rich.table import Table

    console = Console(file=(text := io.StringIO()), width=200 if not sys.stdout.isatty() else None)
    lists = {name: one for name, one in body.items() if one and _is_rows(one)}
    facts = {name: one for name, one in body.items() if not isinstance(one, list | dict)}
    if facts:
        shown = Table(show_header=False, box=None, padding=(0, 2, 0, 0))
        for name, one in facts.items():
            shown.add_row(name, _cell(name, one))
        console.print(shown)
    for title, rows in lists.items():
        names = [name for name in rows[0] if not isinstance(rows[0][name], list | dict)]
        table = Table(title=title, box=None, title_justify="left", padding=(0, 2, 0, 0))
        for name in names:
            table.add_column(name, justify="left" if name in TIMES else "right")
        for row in rows:
            table.add_row(*(_cell(name, row[name]) for name in names))
        console.print(table)
    return text.getvalue()


def _is_rows(value: Any) -> bool:
    return isinstance(value, list) and isinstance(value[0], dict)


def _cell(name: str, value: Any) -> str:
    if value is None:
        return "-"
    if name in TIMES and isinstance(value, int):
        moment = datetime.fromtimestamp(value / 1000, UTC)
        return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")
    return str(value).lower() if isinstance(value, bool) else str(value)


@click.group()
def keys() -> None:
    """Manage API keys."""


def _keys(config_path: str | None) -> Keys:
    return Keys(api_keys.path(load(config_path)))


@keys.command()
@click.argument("name")
@click.option("--role", type=click.Choice(get_args(Role)), default="reader", show_default=True)
@config_option
def new(name: str, role: Role, config_path: str | None) -> None:
    """Make a key and print it; it is not kept and cannot be shown again."""
    click.echo(_keys(config_path).new(name, role))


@keys.command("list")
@click.option("--json", "as_json", is_flag=True)
@config_option
def list_keys(as_json: bool, config_path: str | None) -> None:
    """List keys: id, role, state, name."""
    found = _keys(config_path).all()
    if as_json:
        rows = [
            {"id": k.id, "name": k.name, "role": k.role, "created": k.created, "revoked": k.revoked}
            for k in found
        ]
        click.echo(orjson.dumps(rows, option=orjson.OPT_INDENT_2).decode())
        return
    for key in found:
        click.echo(
            f"{key.id}  {key.role:8}  {'revoked' if key.revoked else 'in force'}  {key.name}"
        )


@keys.command()
@click.argument("identity", metavar="ID")
@config_option
def revoke(identity: str, config_path: str | None) -> None:
    """Put a key out of force; a running endpoint follows within a second."""
    key = _keys(config_path).revoke(identity)
    click.echo(f"revoked {key.id} ({key.name})")
