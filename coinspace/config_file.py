"""The configuration file: written with every default, shown, checked."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import click

from coinspace.config import Section, Settings, config_option, load
from coinspace.errors import ConfigError


def default_toml() -> str:
    """Return a commented configuration file with every default."""
    lines = ["# CoinSpace: every key with its default; uncomment what you change.", ""]
    # a plain build of the defaults: the environment must not leak into the file
    lines += _table("", Settings.model_construct())
    return "\n".join(lines) + "\n"


def _table(name: str, section: Section | Settings) -> list[str]:
    lines = ["", f"[{name}]"] if name else []
    tables: list[str] = []
    for key, field in type(section).model_fields.items():
        value = getattr(section, key)
        place = f"{name}.{key}" if name else key
        if isinstance(value, Section):
            tables += _table(place, value)
        elif isinstance(value, dict) and any(isinstance(one, Section) for one in value.values()):
            for one, inner in value.items():
                tables += _table(f"{place}.{one}", inner)
        else:
            lines.append(_line(key, value, field.description))
    return lines + tables


def _line(key: str, value: Any, description: str | None) -> str:
    comment = f"  # {description}" if description else ""
    # TOML has no word for nothing
    return f"# {key}: unset{comment}" if value is None else f"#{key} = {_toml(value)}{comment}"


def _toml(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, (int, float)):
        return str(value)
    if isinstance(value, (list, tuple)):
        return "[" + ", ".join(_toml(one) for one in value) + "]"
    if isinstance(value, Section):
        value = {key: one for key, one in value.model_dump().items() if one is not None}
    if isinstance(value, dict):
        return "{" + ", ".join(f'"{key}" = {_toml(one)}' for key, one in value.items()) + "}"
    text = str(value).replace("\\", "\\\\").replace('"', '\\"')
    return f'"{text}"'


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
    if path.exists() and not force:
        raise ConfigError(f"{path}: expected no file here, found one; --force overwrites it")
    path.write_text(default_toml())
    click.echo(f"wrote {path}")


@config.command()
@config_option
def show(config_path: str | None) -> None:
    """Print the settings in force as JSON; passwords are masked."""
    text = load(config_path).model_dump_json(indent=2)
    click.echo(re.sub(r"(://[^:/@\"]*:|password=|token=)[^@;\"]*", r"\1***", text))


@config.command()
@config_option
def check(config_path: str | None) -> None:
    """Exit 0 when the settings are valid, 1 with a message otherwise."""
    load(config_path)
    click.echo("ok")
