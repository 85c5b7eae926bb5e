"""What is true of each exchange: URLs, symbols, subscriptions, REST requests, limits. No I/O.

A module of this folder whose `NAME` is its own name is an exchange; there is no other list of them.
Modules of a folder `coinspace_exchanges` on `sys.path` are added, so that a new exchange needs no
change in this package.
"""

from __future__ import annotations

import importlib
import pkgutil
import sys
from pathlib import Path
from typing import cast

from coinspace.errors import ConfigError
from coinspace.exchanges.exchange import Exchange

__path__ += [
    str(folder)
    for folder in (Path(entry, "coinspace_exchanges") for entry in sys.path)
    if folder.is_dir()
]


def _found() -> dict[str, Exchange]:
    names = {found.name for found in pkgutil.iter_modules(__path__)}
    modules = {name: importlib.import_module(f"{__name__}.{name}") for name in sorted(names)}
    declared = [
        cast(Exchange, module)
        for name, module in modules.items()
        if getattr(module, "NAME", None) == name
    ]
    return {one.NAME: one for one in sorted(declared, key=lambda one: (one.ORDER, one.NAME))}


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
