"""Where settings come from: the file and the environment, converted to one form and merged.

What the sections share is here, too, since the exchanges' sections are below the configuration.

Names may be written in upper or lower case. The names of a free table (asset, exchange or
process -> value) are converted to the platform's spelling. Tables are merged key by key.
"""

from __future__ import annotations

import json
import re
import tomllib
import types
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Union, get_args, get_origin

from pydantic import BaseModel, BeforeValidator, ConfigDict, SecretStr
from pydantic.fields import FieldInfo

from coinspace.errors import ConfigError

PREFIX = "COINSPACE_"
# for every section: unknown keys are refused
STRICT = ConfigDict(extra="forbid", validate_assignment=True, use_attribute_docstrings=True)
NOTHING = ("", "none", "null")
# of a configuration file; a device has no end
MOST_BYTES = 1 << 20
# names of a path; the last one may contain `__`
MOST_NAMES = 8


def _user_path(given: Any) -> Any:
    # a path in a file is not expanded by a shell
    if not isinstance(given, str):
        return given
    if not given.strip():
        raise ValueError("expected a path, was an empty text")
    try:
        return Path(given).expanduser()
    except RuntimeError:
        raise ValueError(f"expected a path without ~, as there is no such home: {given}") from None


UserPath = Annotated[Path, BeforeValidator(_user_path)]


@dataclass(frozen=True)
class Names:
    """How the names of a free table are spelled.

    Attributes: like: the section whose keys the names are, for a table with some of its keys.
    """

    spell: Callable[[str], str] = str
    like: type[BaseModel] | None = None


class _Kind:
    # what a value is made of: a section's fields, a free table, a list or one value
    def __init__(self, annotation: Any) -> None:
        self.names = Names()
        self.optional = False
        while True:
            origin = get_origin(annotation)
            if origin is Annotated:
                annotation, *metadata = get_args(annotation)
                self.names = next((one for one in metadata if isinstance(one, Names)), self.names)
            elif origin in (Union, types.UnionType) and types.NoneType in get_args(annotation):
                self.optional = True
                annotation = next(one for one in get_args(annotation) if one is not types.NoneType)
            else:
                break
        is_section = isinstance(annotation, type) and issubclass(annotation, BaseModel)
        self.model: type[BaseModel] | None = annotation if is_section else self.names.like
        self.is_table = origin is dict
        self.is_list = origin is list
        self.is_text = annotation in (str, SecretStr)
        self._value = get_args(annotation)[1] if self.is_table else Any

    def name(self, given: str) -> str:
        if self.model is not None:
            return given if given in self.model.model_fields else given.lower()
        return self.names.spell(given)

    def below(self, name: str) -> _Kind:
        if self.model is None:
            return _Kind(self._value)
        field = self.model.model_fields.get(name)
        return _Kind(Any if field is None else _annotation(field))

    @property
    def has_names(self) -> bool:
        return self.model is not None or self.is_table


def _annotation(field: FieldInfo) -> Any:
    names = next((one for one in field.metadata if isinstance(one, Names)), None)
    return field.annotation if names is None else Annotated[field.annotation, names]


def read_file(path: Path) -> dict[str, Any] | None:
    """Return the tables of a file, None when there is no file. Raises: ConfigError."""
    try:
        with path.open("rb") as file:
            content = file.read(MOST_BYTES + 1)
        if len(content) > MOST_BYTES:
            raise ValueError(f"of at most {MOST_BYTES} bytes")
        text = content.decode("utf-8-sig")
    except (FileNotFoundError, NotADirectoryError):
        return None
    except UnicodeDecodeError as error:
        raise ConfigError(
            f"{path}: expected TOML in UTF-8, byte {error.start} is not UTF-8"
        ) from None
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise ConfigError(f"{path}: expected a readable file, {reason}") from None
    try:
        return tomllib.loads(text)
    except (ValueError, RecursionError) as error:
        # a number with thousands of digits raises ValueError, not TOMLDecodeError
        reason = "nested too deep" if isinstance(error, RecursionError) else error
        raise ConfigError(f"{path}: expected TOML, {reason}") from None


def spelled(model: type[BaseModel], values: Any) -> Any:
    """Return tables with every name in the settings' spelling."""
    return _spelled(_Kind(model), values)


def _spelled(
    kind: _Kind, value: Any, read: Callable[[_Kind, Any], Any] = lambda kind, value: value
) -> Any:
    # read: converts what is not a table
    if not isinstance(value, dict) or not kind.has_names:
        return read(kind, value)
    found: dict[str, Any] = {}
    for given, one in value.items():
        name = kind.name(given)
        # in place: a copy for each name would cost the square of their number
        below = _spelled(kind.below(name), one, read)
        found[name] = merged(found[name], below) if name in found else below
    return found


def merged(base: Any, over: Any) -> Any:
    """Return tables merged key by key; any other value of `over` replaces that of `base`."""
    if not isinstance(base, dict) or not isinstance(over, dict):
        return over
    found = dict(base)
    for name, value in over.items():
        found[name] = merged(found[name], value) if name in found else value
    return found


@dataclass(frozen=True)
class Environment:
    """Values that variables set, and the variable of each path of names in lower case."""

    values: dict[str, Any]
    variables: dict[tuple[str, ...], str]

    def origin(self, place: tuple[Any, ...]) -> str | None:
        """Return the variable that set the value at a place, or the only one that set a part."""
        path = tuple(str(one).lower() for one in place)
        for length in range(len(path), 0, -1):
            found = self.variables.get(path[:length])
            if found is not None:
                return found
        below = [name for one, name in self.variables.items() if one[: len(path)] == path]
        return below[0] if len(below) == 1 else None


def read_environment(model: type[BaseModel], environ: Mapping[str, str]) -> Environment:
    """Read variables such as COINSPACE_ENDPOINT__PORT, `__` between the names of a path.

    Args: environ: the variables that are settings, and no others.
    Raises: ConfigError naming the variable whose list or table cannot be read.
    """
    values: dict[str, Any] = {}
    variables: dict[tuple[str, ...], str] = {}
    for variable, text in sorted(environ.items()):
        path = variable[len(PREFIX) :].split("__", MOST_NAMES)
        found = _read(_Kind(model), path, text, variable)
        values = merged(values, found)
        variables[_path(found, len(path))] = variable
    return Environment(values, variables)


def _path(value: Any, depth: int) -> tuple[str, ...]:
    # the path that a variable names, in the settings' spelling
    names: list[str] = []
    while isinstance(value, dict) and len(value) == 1 and len(names) < depth:
        name, value = next(iter(value.items()))
        names.append(name.lower())
    return tuple(names)


def _read(kind: _Kind, path: list[str], text: Any, variable: str) -> Any:
    if kind.has_names and path:
        # a name of the last table may contain `__`
        inner = kind.below(kind.name(path[0]))
        last = kind.model is None and not inner.has_names
        given, rest = ("__".join(path), []) if last else (path[0], path[1:])
        name = kind.name(given)
        return {name: _read(kind.below(name), rest, text, variable)}
    if path:
        # no such name: the check of the settings reports it
        return {path[0].lower(): _read(kind, path[1:], text, variable)}
    if not isinstance(text, str):
        return text
    if kind.has_names:
        table = _table(text, variable)
        return _spelled(kind, table, lambda below, value: _read(below, [], value, variable))
    if kind.is_list:
        return _list(text, variable)
    if kind.optional and text.strip().lower() in NOTHING:
        return None
    # blanks may be part of a text, never of a number or a word
    return text if kind.is_text else text.strip()


def _list(text: str, variable: str) -> list[Any]:
    text = text.strip()
    if text.startswith("["):
        found = _parsed(text)
        if isinstance(found, list):
            return found
        if not text.endswith("]"):
            raise ConfigError(f'{variable}: expected a list as JSON, ["a", "b"], or as a, b')
        text = text[1:-1]
    return [word for one in re.split(r"[\s,;]+", text) if (word := one.strip("\"'"))]


def _table(text: str, variable: str) -> dict[str, Any]:
    text = text.strip()
    if text.startswith("{"):
        found = _parsed(text)
        if isinstance(found, dict):
            return found
    else:
        pairs = [one.partition("=") for one in re.split(r"[,;\n]", text) if one.strip()]
        if all(mark and name.strip() for name, mark, _ in pairs):
            return {name.strip(): value.strip() for name, _, value in pairs}
    raise ConfigError(
        f'{variable}: expected a table as JSON, {{"name": value}}, or as name=value, name=value'
    )


def _parsed(text: str) -> Any:
    # JSON, else a TOML value, which may have single quotes
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        pass
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except (ValueError, RecursionError):
        return None
