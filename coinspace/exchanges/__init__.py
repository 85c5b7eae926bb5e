"""What each exchange speaks: URLs, symbols, subscribe frames, REST requests, limits. No I/O.

A module of this folder that declares its own name as `NAME` is an exchange; no other place lists
them. A folder `coinspace_exchanges` on `sys.path` adds its modules, so that an exchange
can be tried, or shipped, without a change of this package.
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
# in the order in which they are listed
EXCHANGES = tuple(_MODULES)


def every() -> list[Exchange]:
    """Return the module of each exchange, in the order in which they are listed."""
    return list(_MODULES.values())


def exchange(name: str) -> Exchange:
    """Return the module of an exchange. Raises: ConfigError for a name that does not exist."""
    if name not in _MODULES:
        raise ConfigError(f"exchange: expected one of {', '.join(EXCHANGES)}, was {name!r}")
    return _MODULES[name]
