"""`coinspace cluster`: private NATS servers on loopback, and the state of those in use."""

from __future__ import annotations

import contextlib
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click

from coinspace.bus.nats import probe
from coinspace.bus.nats.jetstream import StreamState
from coinspace.bus.nats.server import Cluster
from coinspace.config import Settings, config_option, load
from coinspace.errors import BusError, ConfigError
from coinspace.lock import lock_file
from coinspace.process import ended_by_signals
from coinspace.text import json_line

NODES_LIMIT = 9
POLL_S = 0.5
EXIT_DOWN = 2


@click.group()
def cluster() -> None:
    """Run private NATS servers for the bus, and show those in use.

    The servers listen on loopback only, have a random password and keep their data in the data
    folder.
    """


@cluster.command()
@config_option
@click.option(
    "--nodes",
    type=click.IntRange(1, NODES_LIMIT),
    default=1,
    show_default=True,
    help="servers; three replace each other",
)
def up(config_path: str | None, nodes: int) -> None:
    """Start the servers and run them until Ctrl-C; one that ends is started again."""
    folder = _folder(load(config_path))
    folder.mkdir(parents=True, exist_ok=True)
    lock_file(folder / "lock", f"cluster {folder}", ConfigError)
    servers = Cluster(folder, nodes)
    with ended_by_signals(), contextlib.closing(servers), contextlib.suppress(KeyboardInterrupt):
        servers.start()
        click.echo(f"{nodes} NATS servers run; Ctrl-C stops them. The bus uses them with", err=True)
        click.echo('export COINSPACE_BUS__URL="$(coinspace cluster url)"', err=True)
        while True:
            for name in servers.ended(POLL_S):
                click.echo(f"{name} ended and is started again", err=True)
                servers.restart(name)


@cluster.command()
@config_option
def url(config_path: str | None) -> None:
    """Print the value of bus.url for the private servers; it contains their password."""
    click.echo(_private(load(config_path)).url)


@cluster.command()
@config_option
@click.option("--json", "as_json", is_flag=True, help="JSON on stdout")
def status(config_path: str | None, as_json: bool) -> None:
    """Show the servers and streams of bus.url, and the private servers.

    Exit code 2: a server does not answer, or a stream has other limits than the configuration.
    """
    settings = load(config_path)
    facts: dict[str, Any] = {}
    if settings.bus.url:
        try:
            facts["bus"] = asdict(probe.servers(settings.bus))
            if settings.streams.enabled:
                facts["streams"] = {one.name: _stream(one) for one in probe.streams(settings)}
        except BusError as error:
            facts["bus"] = {"problem": str(error)}
    with contextlib.suppress(ConfigError):
        servers = _private(settings)
        facts["nodes"] = {name: _node(servers, name) for name in servers.names}
    if not facts:
        raise ConfigError(
            "bus.url: expected NATS servers, was empty; `coinspace cluster up` starts private ones"
        )
    if as_json:
        click.echo(json_line(facts))
    else:
        for name, one in _lines(facts).items():
            click.echo(f"{name:<4} " + ", ".join(f"{key} {one[key]}" for key in one))
    if any("problem" in one for one in _lines(facts).values()):
        raise SystemExit(EXIT_DOWN)


@cluster.command()
@config_option
def apply(config_path: str | None) -> None:
    """Make the streams, or give existing ones the limits of the configuration."""
    settings = load(config_path)
    if not settings.streams.enabled:
        raise ConfigError("streams.enabled: expected true, was false: there are no streams")
    probe.apply_limits(settings)
    for found in probe.streams(settings):
        click.echo(f"{found.name}: replicas {found.replicas}, {settings.streams.max_bytes} bytes")


def _lines(facts: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Return what is shown, one entry a line."""
    bus = {"bus": facts["bus"]} if "bus" in facts else {}
    return {**bus, **facts.get("nodes", {}), **facts.get("streams", {})}


def _stream(found: StreamState) -> dict[str, Any]:
    facts = {
        "leader": found.leader or "one server",
        "replicas": found.replicas,
        "batches": found.messages,
        "bytes": found.bytes,
        "waiting": found.waiting,
        "taken": found.taken,
        "workers_waiting": found.workers,
    }
    return facts | ({"problem": found.problem} if found.problem else {})


def _folder(settings: Settings) -> Path:
    return settings.data / "nats"


def _private(settings: Settings) -> Cluster:
    """Return the private servers. Raises: ConfigError when they were never started."""
    found = Cluster.of(_folder(settings))
    if found is None:
        raise ConfigError(
            f"{_folder(settings)}: expected private NATS servers, found none;"
            " `coinspace cluster up` starts them"
        )
    return found


def _node(servers: Cluster, name: str) -> dict[str, Any]:
    try:
        found = servers.monitor(name, "varz")
        return {
            "version": found["version"],
            "memory_mb": found["mem"] >> 20,
            "connections": found["connections"],
            "routes": found["routes"],
            "in_messages": found["in_msgs"],
            "out_messages": found["out_msgs"],
            "slow_consumers": found["slow_consumers"],
        }
    except (OSError, ValueError, KeyError) as error:
        return {"problem": f"does not answer: {error}"}
