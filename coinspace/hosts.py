"""Several hosts: which process each one runs, and which of them this machine is.

`[hosts.NAME]` of the configuration gives each host an address and roles. The same file goes to all
hosts. Without that table, everything runs on this machine.
"""

from __future__ import annotations

import errno
import socket
from collections.abc import Iterable, Iterator, Mapping, Sequence
from fnmatch import fnmatchcase
from typing import Protocol

# role -> patterns of its processes; a role may also be such a pattern
GROUPS = {
    "collectors": ("orderbook-collector-*", "ticker-collector-*", "fx-collector"),
    "storage": ("questdb", "*-storage-worker"),
    "index": ("orderbook-aggregator", "index-calculator"),
    "endpoint": ("index-endpoint",),
}


class Host(Protocol):
    """What is known of a host: see `HostSettings`."""

    address: str
    roles: list[str]
    public_key: str


def matching(role: str, processes: Iterable[str]) -> list[str]:
    """Return the processes of a role; empty when there is no such role."""
    patterns = GROUPS.get(role, (role,))
    return [name for name in processes if any(fnmatchcase(name, one) for one in patterns)]


def assigned(hosts: Mapping[str, Host], processes: Sequence[str]) -> dict[str, str]:
    """Return process -> name of the host that runs it; `problems` reports a second host."""
    found: dict[str, str] = {}
    for host, one in hosts.items():
        for role in one.roles:
            for process in matching(role, processes):
                found.setdefault(process, host)
    return found


def problems(hosts: Mapping[str, Host], processes: Sequence[str]) -> Iterator[tuple[str, str]]:
    """Yield (host, problem) for roles that no process has or two hosts have, and missing keys."""
    keyed = {name for name, one in hosts.items() if one.public_key}
    owner: dict[str, str] = {}
    for host, one in hosts.items():
        if not one.address.strip():
            yield host, "address: expected a name or an IP address, was an empty text"
        if keyed and host not in keyed:
            yield (
                host,
                f"public_key: expected a key as hosts.{min(keyed)} has one, was none;"
                " `coinspace keys curve` on that host prints it",
            )
        for role in one.roles:
            found = matching(role, processes)
            if not found:
                known = ", ".join([*GROUPS, *processes])
                yield host, f"roles: expected one of {known}, or a pattern with *, was {role!r}"
            for process in found:
                other = owner.setdefault(process, host)
                if other != host:
                    yield host, f"roles: {process} already runs on hosts.{other}"


def is_here(address: str) -> bool:
    """Return whether an address belongs to this machine."""
    try:
        found = socket.getaddrinfo(address, 0, type=socket.SOCK_DGRAM)
    except OSError:
        return False
    for family, kind, protocol, _, place in found:
        with socket.socket(family, kind, protocol) as probe:
            try:
                probe.bind(place)
            except OSError as error:
                if error.errno != errno.EADDRNOTAVAIL:
                    continue
            else:
                return True
    return False


def own(hosts: Mapping[str, Host], asked: str) -> str:
    """Return the name of this machine's host, "" when it is none of them or several.

    Args: asked: the name in the settings, "" = by its address.
    """
    if asked:
        return asked
    here = [name for name, one in hosts.items() if is_here(one.address)]
    return here[0] if len(here) == 1 else ""
