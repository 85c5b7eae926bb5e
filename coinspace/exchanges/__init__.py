"""What each exchange speaks: URLs, symbols, subscribe frames, REST requests, limits. No I/O."""

from __future__ import annotations

import importlib
from typing import cast

from coinspace.config import EXCHANGES
from coinspace.errors import ConfigError
from coinspace.exchanges.exchange import Exchange


def exchange(name: str) -> Exchange:
    """Return the module of an exchange. Raises: ConfigError for a name that does not exist."""
    if name not in EXCHANGES:
        raise ConfigError(f"exchange: expected one of {', '.join(EXCHANGES)}, was {name!r}")
    return cast(Exchange, importlib.import_module(f"coinspace.exchanges.{name}"))
