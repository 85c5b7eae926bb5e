"""The configuration file: written with every default, shown, checked."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import click
import orjson
import tomlkit
from pydantic import BaseModel

from coinspace.config import SECRET_NAME, Settings, config_option, load
from coinspace.errors import ConfigError
from coinspace.preflight import check_start
from coinspace.text import MASK, json_line, shown_address

# public keys, and the path of the key file
_PUBLIC = ("curve_public_key", "curve_server_key", "curve_server_keys", "curve_allowed", "keys")


def default_toml() -> str:
    """Return a commented configuration file with every default."""
    lines = ["# CoinSpace: every key with its default; uncomment what you change.", ""]
    lines += _table("", Settings())
    return "\n".join(lines) + "\n"


def _table(name: str, section: BaseModel) -> list[str]:
    lines = ["", f"[{name}]"] if name else []
    tables: list[str] = []
    for key, field in type(section).model_fields.items():
        value = getattr(section, key)
        place = f"{name}.{key}" if name else key
        if isinstance(value, BaseModel):
            tables += _table(place, value)
        elif isinstance(value, dict) and any(isinstance(one, BaseModel) for one in value.values()):
            for one, inner in value.items():
                tables += _table(f"{place}.{one}", inner)
        else:
            lines.append(_line(key, value, field.description))
    return lines + tables


def _line(key: str, value: Any, description: str | None) -> str:
    comment = f"  # {description}" if description else ""
    if value is None:
        # TOML has no null
        return f"# {key}: unset{comment}"
    if isinstance(value, list) and any(isinstance(one, BaseModel) for one in value):
        # on one line, which one # comments out
        text = f"[{', '.join(tomlkit.item(_inline(one)).as_string() for one in value)}]"
    else:
        text = tomlkit.item(_inline(value)).as_string()
    return f"#{key} = {text}{comment}"


def _inline(value: Any) -> Any:
    if isinstance(value, BaseModel):
        value = value.model_dump(exclude_none=True)
    if isinstance(value, dict):
        table = tomlkit.inline_table()
        table.update({key: _inline(one) for key, one in value.items()})
        return table
    if isinstance(value, (list, tuple)):
        return [_inline(one) for one in value]
    return value if isinstance(value, (bool, int, float)) else str(value)


@click.group()
def config() -> None:
    """Write, show or check the configuration."""


@config.command()
@click.option("--output", default="coinspace.toml", help="file to write, - for stdout")
@click.option("--force", is_flag=True, help="overwrite an existing file")
def init(output: str, force: bool) -> None:
    """Write a commented file with every default."""
    if output == "-":
        click.echo(default_toml(), nl=False)
        return
    path = Path(output)
    try:
        if path.exists() and not force:
            raise ConfigError(f"{path}: expected no file here, found one; --force overwrites it")
        path.write_text(default_toml(), encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"{path}: expected a place to write, {error.strerror}") from None
    click.echo(f"wrote {path}")


@config.command()
@config_option
def show(config_path: str | None) -> None:
    """Print the current settings as JSON; logins, keys and tokens are masked."""
    settings = load(config_path).model_dump(mode="json")
    click.echo(json_line(masked(settings), orjson.OPT_INDENT_2))


def masked(value: Any, name: str = "") -> Any:
    """Return settings without their logins, keys and tokens."""
    if name in _PUBLIC:
        return value
    if isinstance(value, dict):
        return {key: masked(one, key) for key, one in value.items()}
    if isinstance(value, list):
        return [masked(one, name) for one in value]
    if not isinstance(value, str) or not value:
        return value
    return MASK if re.search(SECRET_NAME, name, re.IGNORECASE) else shown_address(value)


@config.command()
@config_option
def check(config_path: str | None) -> None:
    """Check the settings; exit code 0 = they can work on this machine, 1 = they cannot."""
    check_start(load(config_path))
    click.echo("ok")
