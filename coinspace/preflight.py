"""Checks before the start: valid settings that cannot work here."""

from __future__ import annotations

from collections.abc import Iterator

from coinspace import tuning
from coinspace.alerts import check as alerts
from coinspace.config import Settings, default_overrides, nearest
from coinspace.errors import ConfigError
from coinspace.exchanges import UNUSABLE
from coinspace.storage.questdb.address import configured


def check_start(settings: Settings) -> None:
    """Refuse settings that this machine or this platform cannot follow.

    Raises: ConfigError with one line per problem.
    """
    problems = [
        *(f"{problem}; repair or remove it" for problem in UNUSABLE.values()),
        *tuning.problems(settings.tuning),
        *_overrides(settings),
        *_database(settings),
        *alerts.problems(settings),
    ]
    if problems:
        raise ConfigError("\n".join(problems))


def _overrides(settings: Settings) -> Iterator[str]:
    # offline tools compute any asset, the platform only those of the index
    index = settings.index
    usual = default_overrides()
    for asset, changes in index.overrides.items():
        if not index.may_have(asset) and changes != usual.get(asset):
            hint = nearest(asset, index.assets)
            yield f"index.overrides.{asset}: there is no index of that asset: {hint}"


def _database(settings: Settings) -> Iterator[str]:
    storage = settings.storage
    if storage.ilp or storage.sql:
        try:
            configured(storage.ilp, storage.sql, storage.readonly_sql)
        except ConfigError as error:
            yield str(error)
