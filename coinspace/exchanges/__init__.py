"""What is true of each exchange: URLs, symbols, subscriptions, REST requests, limits. No I/O.

A module of this folder whose `NAME` is its own name is an exchange; there is no other list of them.
Modules of a folder `coinspace_exchanges` on `sys.path` are added, so that a new exchange needs no
change in this package. An added module that cannot be used is reported and left out.
"""

from __future__ import annotations

import contextlib
import importlib
import pkgutil
import re
import sys
from pathlib import Path
from types import ModuleType, UnionType
from typing import cast, get_origin, get_type_hints

from coinspace.errors import ConfigError
from coinspace.exchanges.exchange import Exchange
from coinspace.text import printable

_OWN = __path__[0]
__path__ += [
    str(folder)
    for folder in (Path(entry, "coinspace_exchanges") for entry in sys.path)
    if folder.is_dir()
]
# the name becomes a part of process names, file names and variables
_NAME = re.compile(r"[a-z][a-z0-9]*")
# name of an added module that cannot be used -> its place, and why
UNUSABLE: dict[str, str] = {}


def _found() -> dict[str, Exchange]:
    found = pkgutil.iter_modules(__path__)
    folders = {one.name: str(getattr(one.module_finder, "path", "")) for one in found}
    declared = []
    for name, folder in sorted(folders.items()):
        try:
            module = importlib.import_module(f"{__name__}.{name}")
            if getattr(module, "NAME", None) == name:
                _check(module)
                declared.append(cast(Exchange, module))
        except (Exception, SystemExit) as error:
            if folder == _OWN:
                raise
            _report(name, f"{folder}/{name}: {type(error).__name__}: {error}")
    return {one.NAME: one for one in sorted(declared, key=lambda one: (one.ORDER, one.NAME))}


def _check(module: ModuleType) -> None:
    """Raise ValueError for a module that lacks a name of an exchange."""
    if not _NAME.fullmatch(module.NAME):
        raise ValueError(f"NAME: expected letters a-z and digits, was {module.NAME!r}")
    for needed, kind in get_type_hints(Exchange).items():
        kind = kind if isinstance(kind, UnionType) else get_origin(kind) or kind
        value = getattr(module, needed, None)
        right = isinstance(value, (int, float) if kind is float else kind)
        if not (right and hasattr(module, needed)):
            name = getattr(kind, "__name__", str(kind))
            raise ValueError(f"{needed}: expected {name}, was {value!r}")
    for needed, function in vars(Exchange).items():
        if callable(function) and needed[0] != "_" and not callable(getattr(module, needed, None)):
            raise ValueError(f"{needed}: expected a function, was none")
    if not module.QUOTES:
        raise ValueError("QUOTES: expected at least one currency, was none")


def _report(name: str, problem: str) -> None:
    UNUSABLE[name] = printable(problem)
    with contextlib.suppress(OSError, ValueError):
        print(f"coinspace: exchange not usable: {UNUSABLE[name]}", file=sys.stderr)


_MODULES = _found()
# names in the order of `ORDER`
EXCHANGES = tuple(_MODULES)


def every() -> list[Exchange]:
    """Return the modules of all exchanges, in the order of `ORDER`."""
    return list(_MODULES.values())


def exchange(name: str) -> Exchange:
    """Return the module of an exchange. Raises: ConfigError for an unknown name."""
    if name not in _MODULES:
        raise ConfigError(f"exchange: expected one of {', '.join(EXCHANGES)}, was {name!r}")
    return _MODULES[name]
