"""One ILP connection: sends a batch of lines and returns the server's answer.

HTTP acknowledges a whole request. TCP has no acknowledgement: rows in the memory of a dying server
are lost. The client library only encodes rows that are not bus messages (`Buffer`); its sender does
not accept encoded lines.
"""

from __future__ import annotations

import base64
import http.client
import re
import socket
import ssl
import warnings
from dataclasses import dataclass
from urllib.parse import urlsplit

import orjson

from coinspace.errors import ConfigError
from coinspace.storage.questdb.address import Address
from coinspace.text import shown_address

with warnings.catch_warnings():
    # this module is the documented one for buffers over ILP; the warning concerns users of QWP
    warnings.simplefilter("ignore", DeprecationWarning)
    from questdb.ingress import Buffer, TimestampNanos

__all__ = ["Buffer", "Rejected", "TimestampNanos", "Transport", "Unavailable", "new_buffer"]

# arrays need version 2; version 3 only adds decimals and needs a newer server
PROTOCOL_VERSION = 2
# a normal answer is one sentence about one line
ANSWER_BYTES = 1 << 16
LINE = re.compile(r"error in line (\d{1,9}): (?:table: ([^,;]+))?(.*)")


class Unavailable(Exception):
    """The batch may or may not be stored: send it again later."""


@dataclass
class Rejected(Exception):
    """The server refused the batch because of its content; no row of it is stored.

    Attributes:
        line: of the first bad row, from 1; 0 = unknown.
        table, reason: from the server's answer.
    """

    line: int
    table: str
    reason: str


def new_buffer(size: int) -> Buffer:
    """Return an empty buffer of the client library with an initial size in bytes."""
    return Buffer(protocol_version=PROTOCOL_VERSION, init_buf_size=size)


class Transport:
    """Sends lines to one address. Not thread-safe; every call blocks up to the time-out.

    Raises: ConfigError when the address has an unsupported option.
    """

    def __init__(self, found: Address, timeout_ms: int) -> None:
        self.address = found
        self.acknowledges = found.ilp.startswith("http")
        scheme, _, rest = found.ilp.partition("::")
        self._values = dict(part.partition("=")[::2] for part in rest.split(";") if part)
        self._tls = scheme.endswith("s")
        self._timeout_s = timeout_ms / 1000
        self._http: http.client.HTTPConnection | None = None
        self._tcp: socket.socket | None = None
        if not self.acknowledges and {"token", "username"} & self._values.keys():
            raise ConfigError(
                "storage.ilp: expected no login over tcp, was one; use http::, which also"
                " acknowledges rows"
            )

    def send(self, lines: bytes) -> None:
        """Send encoded rows. Raises: Unavailable, Rejected."""
        try:
            if self.acknowledges:
                self._post(lines)
            else:
                self._stream(lines)
        except (OSError, http.client.HTTPException) as error:
            self.close()
            where = shown_address(self.address.http)
            raise Unavailable(f"{where}: {error or type(error).__name__}") from None

    def _post(self, lines: bytes) -> None:
        if self._http is None:
            self._http = self._connection()
        headers = {"Content-Type": "text/plain; charset=utf-8"}
        token = self._values.get("token")
        if token:
            headers["Authorization"] = f"Bearer {token}"
        elif self.address.user:
            login = f"{self.address.user}:{self.address.password}".encode()
            headers["Authorization"] = "Basic " + base64.b64encode(login).decode()
        self._http.request("POST", "/write?precision=n", body=lines, headers=headers)
        answer = self._http.getresponse()
        text = answer.read(ANSWER_BYTES).decode(errors="replace")
        if not answer.isclosed():
            # the rest of a longer answer is not read: close its connection
            answer.close()
            self.close()
        if answer.status >= 300:
            raise _refusal(text) or Unavailable(f"HTTP {answer.status} {text[:200]}")

    def _connection(self) -> http.client.HTTPConnection:
        host = urlsplit(self.address.http).netloc
        if self._tls:
            return http.client.HTTPSConnection(
                host, timeout=self._timeout_s, context=self._context()
            )
        return http.client.HTTPConnection(host, timeout=self._timeout_s)

    def _stream(self, lines: bytes) -> None:
        if self._tcp is None:
            host, _, port = self._values["addr"].rpartition(":")
            plain = socket.create_connection((host, int(port)), self._timeout_s)
            self._tcp = (
                self._context().wrap_socket(plain, server_hostname=host) if self._tls else plain
            )
        self._tcp.sendall(lines)

    def _context(self) -> ssl.SSLContext:
        context = ssl.create_default_context(cafile=self._values.get("tls_roots"))
        if self._values.get("tls_verify") == "unsafe_off":
            context.check_hostname = False
            context.verify_mode = ssl.CERT_NONE
        return context

    def close(self) -> None:
        """Close the connection; the next `send` connects again."""
        for connection in (self._http, self._tcp):
            if connection is not None:
                connection.close()
        self._http = self._tcp = None


def _refusal(text: str) -> Rejected | None:
    # {"code":"invalid","message":"…error in line 3: table: t, column: c; …","line":3,…}
    try:
        facts = orjson.loads(text)
    except orjson.JSONDecodeError:
        return None
    if not isinstance(facts, dict) or facts.get("code") != "invalid":
        return None
    message = str(facts.get("message", ""))
    found = LINE.search(message)
    if not found:
        line = facts.get("line")
        return Rejected(line if isinstance(line, int) else 0, "", message[:500])
    table = (found[2] or "").strip()
    return Rejected(int(found[1]), table, f"{table}{found[3]}".strip()[:500])
