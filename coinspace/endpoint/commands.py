"""`coinspace keys`."""

from __future__ import annotations

from typing import get_args

import click
import orjson

from coinspace.bus.keys import public_key
from coinspace.config import config_option, load
from coinspace.endpoint.http.keys import Role, keys_of
from coinspace.text import json_line, printable


@click.group()
def keys() -> None:
    """Manage API keys, and the keys of several hosts."""


@keys.command()
@click.argument("name")
@click.option("--role", type=click.Choice(get_args(Role)), default="reader", show_default=True)
@config_option
def new(name: str, role: Role, config_path: str | None) -> None:
    """Make a key and print it; only its hash is kept, so that it cannot be shown again."""
    click.echo(keys_of(load(config_path)).new(name, role))


@keys.command("list")
@click.option("--json", "as_json", is_flag=True)
@config_option
def list_keys(as_json: bool, config_path: str | None) -> None:
    """List keys: id, role, state, name."""
    found = keys_of(load(config_path)).all()
    if as_json:
        rows = [
            {"id": k.id, "name": k.name, "role": k.role, "created": k.created, "revoked": k.revoked}
            for k in found
        ]
        click.echo(json_line(rows, orjson.OPT_INDENT_2))
        return
    for key in found:
        click.echo(
            f"{key.id}  {key.role:8}  {'revoked' if key.revoked else 'valid'}"
            f"  {printable(key.name)}"
        )
    if not found:
        click.echo("no keys", err=True)


@keys.command()
@click.argument("identity", metavar="ID")
@config_option
def revoke(identity: str, config_path: str | None) -> None:
    """Revoke a key; a running endpoint refuses it within a second."""
    key = keys_of(load(config_path)).revoke(identity)
    click.echo(f"revoked {key.id} ({printable(key.name)})")


@keys.command()
@click.option("--new", is_flag=True, help="replace the pair; tell the other hosts the new key")
@config_option
def curve(new: bool, config_path: str | None) -> None:
    """Print this host's public key of the bus; the pair is made once, in the data folder."""
    click.echo(f'public_key = "{public_key(load(config_path).bus, new=new)}"')
