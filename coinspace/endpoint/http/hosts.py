"""The names of this server that requests may have in `Host`.

A web page can point its own domain name to this machine and then read everything that is served
under the name ("DNS rebinding"). Its requests carry that name. An IP address cannot be redirected
in this way, so that the address that a client has connected to is always accepted.
"""

from __future__ import annotations

import re

from coinspace.endpoint.http.addresses import parsed
from coinspace.endpoint.http.connection import Scope, values
from coinspace.endpoint.http.problem import Problem
from coinspace.errors import EndpointError

ANY = "*"
LOOPBACK = ("localhost", "127.0.0.1", "[::1]")
_HOST = re.compile(r"(\[[0-9a-f:.]+\]|[a-z0-9._-]{1,253})(:[0-9]{1,5})?")


class Hosts:
    """The accepted names.

    Args: names, those of the settings; bound, the address that the server listens on; any_name,
    whether `*` is allowed.
    Raises: EndpointError for an invalid name, or a `*` that is not allowed.
    """

    def __init__(self, names: list[str], bound: str, *, any_name: bool) -> None:
        self._any = ANY in names
        if self._any and not any_name:
            raise EndpointError(
                "endpoint.hosts: expected '*' only where keys are required; name the hosts,"
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
        """Return the request's host and port in lower case; "" for HTTP/1.0 without `Host`.

        Raises: Problem 400 unless there is exactly one `Host`, 421 for an unknown name.
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
            " add further names to endpoint.hosts",
        )


def _literal(address: str) -> str:
    """Write an IPv6 address as in `Host`; return other text unchanged in lower case."""
    try:
        found = parsed(address)
    except ValueError:
        return address.lower()
    return f"[{found}]" if found.version == 6 else str(found)
