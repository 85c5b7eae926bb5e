"""HTTP connections to servers that may be hostile.

aiohttp bounds the headers of an answer. It does not bound interim answers (`100 Continue`) and
small chunks. Each of them costs as much as kilobytes of content: a server that sends nothing else
would hold the event loop for seconds.
"""

from __future__ import annotations

import functools
from typing import Any

import aiohttp
from aiohttp.client_proto import ResponseHandler

# ends of lines in one read of at most 256 KiB: chunks of 512 bytes
LINES_AT_ONCE = 1000
# interim answers before one answer
INTERIM_LIMIT = 8


class Connector(aiohttp.TCPConnector):
    """Ends a connection on which a server sends too many small parts."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self._factory = functools.partial(_Handler, loop=self._loop)  # type: ignore[assignment]


class _Handler(ResponseHandler):
    _interim = 0

    def data_received(self, data: bytes) -> None:
        if data.count(b"\r\n") > LINES_AT_ONCE:
            self._abort()
        else:
            super().data_received(data)

    def feed_data(self, data: Any, size: int = 0) -> None:
        if self._interim > INTERIM_LIMIT:
            # what came in the same read as the limit
            return
        self._interim = self._interim + 1 if 100 <= data[0].code < 200 else 0
        if self._interim > INTERIM_LIMIT:
            self._abort()
        else:
            super().feed_data(data, size)

    def _abort(self) -> None:
        # the request fails as with any lost connection
        if self.transport is not None:
            self.transport.abort()
