"""`coinspace alerts`: what stands, what waits, and whether targets take a message."""

from __future__ import annotations

import asyncio
import uuid
from typing import Any

import click
import msgspec
import orjson

from coinspace.alerts import outbox
from coinspace.alerts.check import check
from coinspace.alerts.delivery import Poster
from coinspace.alerts.forms import body
from coinspace.alerts.outbox import Content, Message, Outcome
from coinspace.alerts.rules import Event
from coinspace.alerts.worker import NAME, host_name, moment, state_path
from coinspace.config import Settings, config_option, load, nearest
from coinspace.config_alerts import AlertRule
from coinspace.errors import CoinSpaceError, ConfigError
from coinspace.instant import shown
from coinspace.observe.health import health_of
from coinspace.text import json_line, printable


@click.group()
def alerts() -> None:
    """List alerts, and send a test to each target."""


@alerts.command()
@config_option
@click.option("--target", "chosen", multiple=True, help="only this target; repeatable")
def test(config_path: str | None, chosen: tuple[str, ...]) -> None:
    """Send one test alert to each target and say what came of it; exit code 1 = one failed.

    It works beside the running platform and without it. There is one attempt for each target.
    """
    settings = load(config_path)
    addresses = check(settings)
    for name in chosen:
        if name.lower() not in addresses:
            hint = nearest(name, list(addresses)) if addresses else "there is none"
            raise ConfigError(f"--target {name}: expected a name of alerts.targets: {hint}")
    wanted = {one.lower() for one in chosen} or set(addresses)
    if not wanted:
        raise ConfigError("alerts.targets: expected a target to send a test to, found none")
    failed = 0
    found = asyncio.run(_test(settings, wanted))
    for name, outcome in found.items():
        result = "delivered" if outcome.reason is None else f"not delivered: {outcome.reason}"
        failed += outcome.reason is not None
        click.echo(printable(f"{name} ({settings.alerts.targets[name].form}): {result}"))
    if failed:
        raise CoinSpaceError(f"alerts: {failed} of {len(found)} targets did not take the test")


async def _test(settings: Settings, wanted: set[str]) -> dict[str, Outcome]:
    addresses = {name: one for name, one in check(settings).items() if name in wanted}
    poster = Poster(settings.alerts.timeout_s)
    at, host = moment().wall_ms, host_name(settings)
    event = Event("test", "test", "test", "test", "this is a test, nothing has happened", at)
    message = Message(uuid.uuid4().hex, at, [event], attempts=1)
    try:
        outcomes = await asyncio.gather(
            *(
                poster.post(address, body(address, message, host), message.id)
                for address in addresses.values()
            )
        )
    finally:
        await poster.close()
    return dict(zip(addresses, outcomes, strict=True))


@alerts.command("list")
@config_option
@click.option("--json", "as_json", is_flag=True, help="one JSON object on stdout")
def list_(config_path: str | None, as_json: bool) -> None:
    """Show rules, standing alerts, what waits for targets, and what was not delivered."""
    settings = load(config_path)
    try:
        content = outbox.read(state_path(settings))
    except (OSError, ValueError) as error:
        raise ConfigError(f"{state_path(settings)}: expected the alerter's file, {error}") from None
    health = health_of(settings, NAME)
    found = {
        "alerter": health.state,
        "reason": health.reason,
        "rules": {
            name: rule.model_dump(mode="json", include={"kind", *rule.model_fields_set})
            for name, rule in settings.alerts.rules.items()
        },
        "standing": msgspec.to_builtins(content.standing),
        "waiting": msgspec.to_builtins(content.targets),
        "undelivered": msgspec.to_builtins(content.undelivered),
    }
    if as_json:
        click.echo(json_line(found, orjson.OPT_INDENT_2))
        return
    for line in _lines(settings, content, found):
        click.echo(printable(line))


def _lines(settings: Settings, content: Content, found: dict[str, Any]) -> list[str]:
    reason = f": {found['reason']}" if found["reason"] else ""
    lines = [f"alerter {found['alerter']}{reason}" if settings.alerts.rules else "no rules"]
    for name, rule in settings.alerts.rules.items():
        n_standing = sum(one.rule == name for one in content.standing)
        lines.append(f"rule {name}: {_words(rule)}; {n_standing} standing")
    lines += [
        f"standing since {shown(one.since_ms * 1_000_000)}: {one.text}" for one in content.standing
    ]
    for name, target in settings.alerts.targets.items():
        saved = content.targets.get(name)
        events = [] if saved is None else list(saved.waiting)
        events += saved.sending.events if saved is not None and saved.sending else []
        lines.append(f"target {name} ({target.form}): {len(events)} alerts wait")
    lines += [
        f"undelivered at {shown(one.at_ms * 1_000_000)} to {one.target}, {one.alerts} alerts:"
        f" {one.text} ({one.reason})"
        for one in content.undelivered
    ]
    return lines


def _words(rule: AlertRule) -> str:
    facts = rule.model_dump(exclude_none=True, include=rule.model_fields_set - {"kind"})
    shown_facts = [
        f"{name} {' '.join(value) if isinstance(value, list) else value}"
        for name, value in facts.items()
    ]
    return ", ".join([f"{rule.kind}", *shown_facts, f"for {rule.delay_s:g} s"])
