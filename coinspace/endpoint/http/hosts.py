"""The names that this server goes by, as requests write them into `Host`.

A web page can let a name of its own point to this machine and then read whatever is served under
that name ("DNS rebinding"); its requests carry that name. A number cannot be pointed elsewhere, so
the address that a client has connected to is always right.
"""

from __future__ import annotations

import ipaddress
import re

from coinspace.endpoint.http.connection import Scope, values
from coinspace.endpoint.http.problem import Problem
from coinspace.errors import EndpointError

ANY = "*"
LOOPBACK = ("localhost", "127.0.0.1", "[::1]")
_HOST = re.compile(r"(\[[0-9a-f:.]+\]|[a-z0-9._-]{1,253})(:[0-9]{1,5})?")


class Hosts:
    """The known names.

    Args: names, those of the settings; bound, the address that the server listens on; any_name,
    whether `*` is allowed.
    Raises: EndpointError for a name that cannot stand in `Host`, or a `*` that is not allowed.
    """

    def __init__(self, names: list[str], bound: str, *, any_name: bool) -> None:
        self._any = ANY in names
        if self._any and not any_name:
            raise EndpointError(
                "endpoint.hosts: expected '*' only where keys are asked for; name the hosts,"
                " or set endpoint.require_keys"
            )
        self._names = {*LOOPBACK, _literal(bound)}
        for name in names:
            match = _HOST.fullmatch(_literal(name.lower().rstrip(".")))
            if match is not None and not match[2]:
                self._names.add(match[1])
            elif name != ANY:
                raise EndpointError(
                    f"endpoint.hosts: expected names or addresses without a port, was {name!r}"
                )

    def check(self, scope: Scope) -> str:
        """Return the request's host and port in lower case, "" for a request of HTTP/1.0 without.

        Raises: Problem 400 unless there is exactly one, 421 for a name that is not ours.
        """
        found = values(scope["headers"], b"host")
        if not found and scope["http_version"] == "1.0":
            return ""
        if len(found) != 1:
            raise Problem("invalid-request", f"Host: expected once, was given {len(found)} times")
        text = found[0].decode("latin-1").lower()
        match = _HOST.fullmatch(text)
        if match is None:
            raise Problem("invalid-request", f"Host: expected NAME:PORT, was {text[:80]!r}")
        name = match[1].rstrip(".")
        if self._any or name in self._names or name == _literal(scope["server"][0]):
            return text
        raise Problem(
            "unknown-host",
            f"Host: expected localhost or another name of this server, was {name[:80]!r};"
            " endpoint.hosts lists further ones",
        )


def _literal(address: str) -> str:
    """Write an address of IPv6 as `Host` has it; leave anything else."""
    try:
        found = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return address.lower()
    found = getattr(found, "ipv4_mapped", None) or found
    return f"[{found}]" if found.version == 6 else str(found)
