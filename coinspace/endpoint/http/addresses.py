"""Addresses of clients: their groups, loopback, and addresses that a proxy reports."""

from __future__ import annotations

import functools
import ipaddress
import re

from coinspace.errors import EndpointError

# an IPv6 client usually has a whole network with this prefix length
IPV6_PREFIX = 64
# some proxies write the client's port, too, which each connection has another of
_WITH_PORT = re.compile(r"\[([^]]*)\](?::\d+)?|([\d.]+):\d+")
Network = ipaddress.IPv4Network | ipaddress.IPv6Network


def parsed(text: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address:
    """Read an address; an IPv4 address within IPv6 becomes IPv4. Raises: ValueError."""
    found = ipaddress.ip_address(text.partition("%")[0])
    mapped = getattr(found, "ipv4_mapped", None)
    return mapped or found


@functools.lru_cache(4096)
def group(text: str) -> str:
    """Return the name that an address is counted under: itself, or its /64 network for IPv6."""
    try:
        address = parsed(text)
    except ValueError:
        return text[:64]
    if address.version == 4:
        return str(address)
    return str(ipaddress.ip_network((int(address), IPV6_PREFIX), strict=False))


@functools.lru_cache(4096)
def is_loopback(host: str) -> bool:
    """Return whether an address is a loopback address."""
    if host == "localhost":
        return True
    try:
        return parsed(host).is_loopback
    except ValueError:
        return False


class Proxies:
    """The proxies whose `X-Forwarded-For` is trusted; none by default.

    Args: networks: addresses or networks. Raises: EndpointError for another text.
    """

    def __init__(self, networks: list[str]) -> None:
        try:
            self._networks: list[Network] = [ipaddress.ip_network(one) for one in networks]
        except ValueError as error:
            raise EndpointError(
                f"endpoint.trusted_proxies: expected addresses or networks, {error}"
            ) from None

    def trusted(self, text: str) -> bool:
        """Return whether an address is one of the proxies."""
        if not self._networks:
            return False
        try:
            address = parsed(text)
        except ValueError:
            return False
        return any(address in network for network in self._networks)

    def client(self, peer: str, forwarded: list[bytes]) -> str:
        """Return the address of the client behind trusted proxies.

        It is the last address that is not a trusted proxy's: the client can forge those before it.
        """
        address = peer
        reported = b",".join(forwarded).decode("latin-1").split(",") if forwarded else []
        while reported and self.trusted(address):
            address = reported.pop().strip()[:64]
            if (found := _WITH_PORT.fullmatch(address)) is not None:
                address = found[2] or found[1]
        return address
