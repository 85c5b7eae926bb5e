"""One ILP connection: a batch out, and what the server says about it."""

from __future__ import annotations

import base64
import contextlib
import http.client
import re
import warnings
from dataclasses import dataclass
from urllib.parse import urlsplit

import orjson

from coinspace.storage.address import Address

with warnings.catch_warnings():
    # the documented home of explicit buffers over ILP; the notice is about QWP users
    warnings.simplefilter("ignore", DeprecationWarning)
    from questdb.ingress import Buffer, IngressError, IngressErrorCode, Sender, TimestampNanos

__all__ = ["Buffer", "Rejected", "TimestampNanos", "Transport", "Unavailable", "new_buffer"]

# arrays need 2; 3 adds decimals only, and needs a newer server
PROTOCOL_VERSION = 2
LINE = re.compile(r"error in line (\d+): (?:table: ([^,;]+))?(.*)")


class Unavailable(Exception):
    """The batch may or may not be stored: send it again later."""


@dataclass
class Rejected(Exception):
    """The server refused the batch for what is in it; nothing of it is stored.

    Attributes: line (from 1, 0 = not said) of the first bad row; table; reason as the server says.
    """

    line: int
    table: str
    reason: str


def new_buffer(size: int) -> Buffer:
    """Return an empty buffer of an initial size in bytes."""
    return Buffer(protocol_version=PROTOCOL_VERSION, init_buf_size=size)


class Transport:
    """Sends buffers to one address; not thread-safe, every call blocks up to the time-out."""

    def __init__(self, found: Address, timeout_ms: int) -> None:
        self.address = found
        self.acknowledges = found.ilp.startswith("http")
        self._timeout_ms = timeout_ms
        options = f"auto_flush=off;protocol_version={PROTOCOL_VERSION};"
        if self.acknowledges:
            # our own retry keeps the batch; the client's would hide how long it takes
            options += f"retry_timeout=0;request_timeout={timeout_ms};"
        try:
            self._sender = Sender.from_conf(found.ilp + options)
            self._sender.establish()  # type: ignore[no-untyped-call]
        except IngressError as error:
            raise Unavailable(str(error)) from None

    def send(self, buffer: Buffer) -> None:
        """Send a buffer and keep it. Raises: Unavailable, Rejected."""
        try:
            self._sender.flush(buffer, clear=False)
        except IngressError as error:
            if error.code == IngressErrorCode.ServerFlushError:
                _, _, text = str(error).partition(": ")
                raise _refusal(text) or Unavailable(text) from None
            raise Unavailable(str(error)) from None

    def post(self, lines: bytes) -> None:
        """Send encoded rows over HTTP. Raises: Unavailable, Rejected."""
        parts = urlsplit(self.address.http)
        kind = http.client.HTTPSConnection if parts.scheme == "https" else None
        connection = (kind or http.client.HTTPConnection)(
            parts.netloc, timeout=self._timeout_ms / 1000
        )
        headers = {"Content-Type": "text/plain; charset=utf-8"}
        if self.address.user:
            login = f"{self.address.user}:{self.address.password}".encode()
            headers["Authorization"] = "Basic " + base64.b64encode(login).decode()
        try:
            connection.request("POST", "/write?precision=n", body=lines, headers=headers)
            answer = connection.getresponse()
            text = answer.read().decode(errors="replace")
        except (OSError, http.client.HTTPException) as error:
            raise Unavailable(str(error)) from None
        finally:
            connection.close()
        if answer.status >= 300:
            raise _refusal(text) or Unavailable(f"HTTP {answer.status} {text[:200]}")

    def close(self) -> None:
        """Close without sending anything."""
        with contextlib.suppress(IngressError):
            self._sender.close(flush=False)


def _refusal(text: str) -> Rejected | None:
    # {"code":"invalid","message":"…error in line 3: table: t, column: c; …","line":3,…}
    try:
        said = orjson.loads(text)
    except orjson.JSONDecodeError:
        return None
    if not isinstance(said, dict) or said.get("code") != "invalid":
        return None
    message = str(said.get("message", ""))
    found = LINE.search(message)
    if not found:
        return Rejected(int(said.get("line") or 0), "", message[:500])
    table = (found[2] or "").strip()
    return Rejected(int(found[1]), table, f"{table}{found[3]}".strip()[:500])
