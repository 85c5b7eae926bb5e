"""One ILP connection: a batch of lines out, and what the server says about it.

HTTP acknowledges a request as a whole; TCP says nothing, so what a dying server had in its memory
is lost there. Lines are sent as they are: the client library encodes the rows that are not bus
messages (`Buffer`), its own sender has no way in for lines that somebody else wrote.
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

with warnings.catch_warnings():
    # the documented home of explicit buffers over ILP; the notice is about QWP users
    warnings.simplefilter("ignore", DeprecationWarning)
    from questdb.ingress import Buffer, TimestampNanos

__all__ = ["Buffer", "Rejected", "TimestampNanos", "Transport", "Unavailable", "new_buffer"]

# arrays need 2; 3 adds decimals only, and needs a newer server
PROTOCOL_VERSION = 2
# an honest answer is a sentence about one line
ANSWER_BYTES = 1 << 16
LINE = re.compile(r"error in line (\d{1,9}): (?:table: ([^,;]+))?(.*)")


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
    """Return an empty buffer of the client library, of an initial size in bytes."""
    return Buffer(protocol_version=PROTOCOL_VERSION, init_buf_size=size)


class Transport:
    """Sends lines to one address; not thread-safe, every call blocks up to the time-out.

    Raises: ConfigError when the address asks for what is not supported.
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
                " acknowledges what it stores"
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
            raise Unavailable(f"{self.address.http}: {error or type(error).__name__}") from None

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
            # the rest of a longer answer is not read: it goes with its connection
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
        """Close; the next `send` connects anew."""
        for connection in (self._http, self._tcp):
            if connection is not None:
                connection.close()
        self._http = self._tcp = None


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
        line = said.get("line")
        return Rejected(line if isinstance(line, int) else 0, "", message[:500])
    table = (found[2] or "").strip()
    return Rejected(int(found[1]), table, f"{table}{found[3]}".strip()[:500])
