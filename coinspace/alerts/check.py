"""Rules and targets that cannot work, found before the start."""

from __future__ import annotations

from collections.abc import Iterator
from fnmatch import fnmatchcase

from coinspace.alerts.forms import Address, address_of
from coinspace.alerts.rules import MOST_ALERTS, assets_of
from coinspace.config import ALERTER, PROCESSES, Settings, collects, nearest
from coinspace.config_alerts import AlertRule
from coinspace.errors import ConfigError
from coinspace.exchanges import EXCHANGES
from coinspace.text import printable

# an error that lists thousands of rules helps no one
SHOWN = 20


def problems(settings: Settings) -> list[str]:
    """Return a line for each rule or target that cannot work: which, what was expected."""
    found = [*_rules(settings), *_targets(settings), *_host(settings)]
    more = [f"alerts: and {len(found) - SHOWN} more problems"] if len(found) > SHOWN else []
    return [printable(one) for one in found[:SHOWN]] + more


def addresses(settings: Settings) -> dict[str, Address]:
    """Return target -> its address. Raises: ConfigError."""
    return {name: address_of(name, one) for name, one in settings.alerts.targets.items()}


def check(settings: Settings) -> dict[str, Address]:
    """Return the addresses of all targets. Raises: ConfigError with a line for each problem."""
    found = problems(settings)
    if found:
        raise ConfigError("\n".join(found))
    return addresses(settings)


def _rules(settings: Settings) -> Iterator[str]:
    alerts, index = settings.alerts, settings.index
    n_alerts = 0
    for name, rule in alerts.rules.items():
        where = f"alerts.rules.{name}"
        n_alerts += len(assets_of(rule, index.assets)) if "assets" in _used(rule) else 1
        for target in rule.targets:
            if target != "*" and target.lower() not in alerts.targets:
                hint = nearest(target, list(alerts.targets)) if alerts.targets else "there is none"
                yield f"{where}.targets: unknown target {target!r}: {hint}"
        for asset in rule.assets if "assets" in _used(rule) else ():
            if not _has_index(settings, asset):
                hint = nearest(asset, index.assets)
                yield f"{where}.assets: there is no index of {asset!r}: {hint}"
        for venue in rule.venues if rule.kind == "venue" else ():
            yield from _venue(settings, where, venue)
        for process in rule.processes if rule.kind == "process" else ():
            if not any(fnmatchcase(one, process) for one in PROCESSES):
                hint = nearest(process, list(PROCESSES))
                yield f"{where}.processes: unknown process {process!r}: {hint}"
    if n_alerts > MOST_ALERTS:
        yield (
            f"alerts.rules: expected at most {MOST_ALERTS} pairs of a rule and an asset,"
            f" was {n_alerts}"
        )


def _used(rule: AlertRule) -> tuple[str, ...]:
    return ("assets",) if rule.kind in ("premium", "index") else ()


def _has_index(settings: Settings, asset: str) -> bool:
    index = settings.index
    if "*" not in asset:
        return asset in index.assets or ("*" in "".join(index.assets) and index.may_have(asset))
    return any(fnmatchcase(one, asset) for one in index.assets)


def _venue(settings: Settings, where: str, venue: str) -> Iterator[str]:
    exchange, _, market = venue.partition(":")
    matching = [one for one in EXCHANGES if fnmatchcase(one, exchange)]
    if venue == "*":
        return
    if not matching or (market != "*" and "/" not in market):
        yield (
            f"{where}.venues: expected EXCHANGE:BASE/QUOTE of {', '.join(EXCHANGES)},"
            f" such as 'upbit:*', or '*', was {venue!r}"
        )
    elif not any(collects(settings, one, market) for one in matching):
        yield f"{where}.venues: expected a market that is collected, was {venue!r}"


def _targets(settings: Settings) -> Iterator[str]:
    for name, target in settings.alerts.targets.items():
        try:
            address_of(name, target)
        except ConfigError as error:
            yield str(error)


def _host(settings: Settings) -> Iterator[str]:
    if settings.alerts.rules and settings.hosts and not settings.host_of(ALERTER):
        yield f"hosts: alerts.rules need a host with the role {ALERTER}, was none"
