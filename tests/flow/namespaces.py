"""Hosts in network namespaces, joined by a switch; a link can be cut."""

from __future__ import annotations

import contextlib
import os
import subprocess
from collections.abc import Iterator

import pytest

SWITCH = "switch"


def _ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True, capture_output=True, text=True)


class Network:
    """Namespaces with one address each.

    Args: addresses: host -> address in one network of 24 bits.
    """

    def __init__(self, addresses: dict[str, str]) -> None:
        self._names = {one: f"cs{os.getpid()}-{one}" for one in (SWITCH, *addresses)}
        self.addresses = addresses

    def open(self) -> None:
        """Make namespaces and the switch. Raises: OSError or CalledProcessError if not allowed."""
        switch = self._names[SWITCH]
        for name in self._names.values():
            _ip("netns", "add", name)
            _ip("-n", name, "link", "set", "lo", "up")
        _ip("-n", switch, "link", "add", "bridge0", "type", "bridge")
        _ip("-n", switch, "link", "set", "bridge0", "up")
        # hosts are joined by such pairs, which not every kernel has
        _ip("-n", switch, "link", "add", "probe0", "type", "veth", "peer", "name", "probe1")
        _ip("-n", switch, "link", "del", "probe0")

    def join(self) -> None:
        """Join each host to the switch."""
        switch = self._names[SWITCH]
        for host, address in self.addresses.items():
            own = self._names[host]
            there = ("peer", "name", f"to-{host}", "netns", switch)
            _ip("-n", own, "link", "add", "eth0", "type", "veth", *there)
            _ip("-n", own, "addr", "add", f"{address}/24", "dev", "eth0")
            _ip("-n", own, "link", "set", "eth0", "up")
            _ip("-n", switch, "link", "set", "dev", f"to-{host}", "master", "bridge0", "up")

    def close(self) -> None:
        for name in self._names.values():
            with contextlib.suppress(subprocess.CalledProcessError, OSError):
                _ip("netns", "del", name)

    def link(self, host: str, state: str) -> None:
        """Cut a host's link, "down", or join it again, "up"."""
        _ip("-n", self._names[SWITCH], "link", "set", "dev", f"to-{host}", state)

    def inside(self, host: str) -> list[str]:
        """Return the beginning of a command that runs on a host."""
        return ["nsenter", f"--net=/run/netns/{self._names[host]}"]


@contextlib.contextmanager
def network(addresses: dict[str, str]) -> Iterator[Network]:
    """Make a network, or skip the test where namespaces cannot be made."""
    made = Network(addresses)
    try:
        try:
            made.open()
        except (OSError, subprocess.CalledProcessError) as error:
            reason = getattr(error, "stderr", "") or error
            pytest.skip(f"network namespaces cannot be made here: {reason}")
        made.join()
        yield made
    finally:
        made.close()
