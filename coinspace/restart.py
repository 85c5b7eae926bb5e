"""`coinspace restart` and `coinspace reload`: requests to the running `coinspace up`.

The request and the answers are lines of JSON on a socket in the data folder.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import socket
from collections.abc import AsyncIterator, Callable, Collection, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click
import orjson

from coinspace._ext.message import HEARTBEAT, encode_header
from coinspace.config import COLLECTORS, Settings, config_option, load
from coinspace.errors import CoinSpaceError, ConfigError
from coinspace.text import printable

NAME = "supervisor.sock"
# of a request: room for the name of each process, and not for thousands of patterns
REQUEST_BYTES = 4096
REQUEST_S = 10.0
# of this release's messages: the first byte of each
MESSAGES = encode_header(HEARTBEAT)[0]

# sections that a new process reads; others also concern `coinspace up` itself, or all hosts
RESTARTED = ("exchanges", "index", "endpoint", "tuning", "journal")

# settings that `reload` applies by new processes, each of which takes over from the old one
_COLLECTED = re.compile(r"exchanges\.(\w+)\.(markets|depth|snapshot_depth)")
_ASSETS = ("index.assets", "index.minimum_venues")
_READERS = ("index-calculator", "orderbook-aggregator", "index-endpoint", "alerter")

Replaced = Callable[[list[str]], AsyncIterator[str]]
Reloaded = Callable[[], AsyncIterator[str]]


@contextmanager
def _place(settings: Settings) -> Iterator[str]:
    # the path of a socket is limited to 107 bytes: this one is short, however deep the folder is
    folder = os.open(settings.data / "run", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield f"/proc/self/fd/{folder}/{NAME}"
    finally:
        os.close(folder)


async def _nothing() -> AsyncIterator[str]:
    return
    yield


async def serve(
    settings: Settings,
    replaced: Replaced,
    stopping: asyncio.Event,
    reloaded: Reloaded = _nothing,
) -> None:
    """Answer requests until everything stops.

    Args:
        replaced: replaces the processes of some roles and yields their names.
        reloaded: applies a changed configuration and yields the settings that it applies.
    """

    async def on_client(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        # TimeoutError is an OSError
        with contextlib.suppress(OSError), contextlib.closing(writer):
            async for answer in _answers(await _request(reader), replaced, reloaded):
                writer.write(orjson.dumps(answer) + b"\n")
                await writer.drain()

    path = settings.data / "run" / NAME
    path.unlink(missing_ok=True)
    with _place(settings) as place, socket.socket(socket.AF_UNIX) as listener:
        listener.bind(place)
        path.chmod(0o600)
        async with await asyncio.start_unix_server(on_client, sock=listener, limit=REQUEST_BYTES):
            await stopping.wait()
    path.unlink(missing_ok=True)


async def _request(reader: asyncio.StreamReader) -> bytes:
    """Return a client's line, b"" for one that is too long."""
    try:
        return await asyncio.wait_for(reader.readline(), REQUEST_S)
    except ValueError:
        return b""


async def _answers(
    request: bytes, replaced: Replaced, reloaded: Reloaded = _nothing
) -> AsyncIterator[dict[str, str]]:
    try:
        asked = orjson.loads(request)
        if asked.get("reload"):
            async for name in reloaded():
                yield {"applied": name}
            yield {"done": ""}
            return
        if asked["messages"] != MESSAGES:
            # new readers would refuse the messages and journals of old writers
            raise ConfigError(
                f"restart: expected messages of version {MESSAGES}, which `coinspace up` runs with,"
                f" the installed release has {asked['messages']}: stop `up` and start it again"
            )
        async for name in replaced([str(role) for role in asked["restart"]]):
            yield {"replaced": name}
    except (CoinSpaceError, ValueError, KeyError, TypeError, AttributeError) as error:
        yield {"error": str(error)}
    else:
        yield {"done": ""}


@click.command()
@click.argument("roles", nargs=-1, metavar="[ROLE]...")
@config_option
def restart(roles: tuple[str, ...], config_path: str | None) -> None:
    """Replace running processes by new ones, one after another, without losing data.

    ROLE: collectors, storage, index, endpoint, or processes by name; without one all but QuestDB. A
    new process starts while the old one works. It takes over when it is ready: a collector when its
    books are synced.
    """
    settings = load(config_path)
    last: dict[str, str] = {}
    for answer in _asked(settings, {"restart": list(roles)}):
        last = answer
        if name := answer.get("replaced"):
            click.echo(printable(name))
    if "done" not in last:
        raise ConfigError(last.get("error") or "restart: `coinspace up` has ended meanwhile")


@click.command()
@config_option
def reload(config_path: str | None) -> None:
    """Apply changed markets, depths, assets and alerts to the running `coinspace up`.

    It prints what it has applied. SIGHUP does the same. A wrong file changes nothing. Other changes
    are named with what applies them; exit code 1.
    """
    last: dict[str, str] = {}
    for answer in _asked(load(config_path), {"reload": True}):
        last = answer
        if name := answer.get("applied"):
            click.echo(printable(name))
    if "done" not in last:
        raise ConfigError(last.get("error") or "reload: `coinspace up` has ended meanwhile")


def differences(old: Settings, new: Settings) -> list[str]:
    """Return the names of the settings that differ, `alerts.rules.NAME.over`."""
    return sorted(_differences("", _given(old), _given(new)))


def _given(settings: Settings) -> dict[str, Any]:
    # the assets as the configuration names them: those of its patterns change by themselves
    found = settings.model_dump()
    found["index"]["assets"] = [*settings.index.named, *settings.index.patterns]
    return found


def readers_of(changed: Iterable[str]) -> list[str]:
    """Return the processes that read settings which `reload` applies, in order.

    Collectors come first: when one of them cannot take over, nothing has changed yet.
    """
    collectors = {
        f"{kind}-{found[1]}"
        for one in changed
        if (found := _COLLECTED.fullmatch(one)) is not None
        # a depth concerns books only
        for kind in (COLLECTORS if found[2] == "markets" else COLLECTORS[:1])
    }
    return [*sorted(collectors), *_READERS]


def is_reloaded(name: str) -> bool:
    """Return whether `reload` applies a setting by new processes."""
    return name in _ASSETS or _COLLECTED.fullmatch(name) is not None


def _differences(place: str, old: Any, new: Any) -> Iterator[str]:
    if not (isinstance(old, dict) and isinstance(new, dict)):
        if old != new:
            yield place
        return
    for name in old.keys() | new.keys():
        yield from _differences(f"{place}.{name}" if place else name, old.get(name), new.get(name))


def refusal(changed: list[str], whole: Collection[str] = ()) -> str:
    """Return which settings need a restart, and of what.

    Args: whole: those of them that need a new start of everything.
    """
    sections = tuple(f"{name}." for name in RESTARTED)
    soft = [one for one in changed if one.startswith(sections) and one not in whole]
    hard = [one for one in changed if one not in soft]
    texts = [f"{', '.join(soft)}: `coinspace restart` applies this"] if soft else []
    if hard:
        texts.append(f"{', '.join(hard)}: stop `coinspace up` and start it again to apply this")
    return "; ".join(texts)


def _asked(settings: Settings, request: dict[str, Any]) -> Iterator[dict[str, str]]:
    try:
        with _place(settings) as place, socket.socket(socket.AF_UNIX) as connection:
            connection.connect(place)
            connection.sendall(orjson.dumps(request | {"messages": MESSAGES}) + b"\n")
            with connection.makefile("rb") as lines:
                for line in lines:
                    yield orjson.loads(line)
    except OSError as error:
        raise ConfigError(
            f"{Path(settings.data) / 'run'}: expected a running `coinspace up`, {error.strerror};"
            " restart or reload the units of systemd with systemctl"
        ) from None
