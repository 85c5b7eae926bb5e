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

# a read with more ends of lines is looked at: content hardly has any
LINES_AT_ONCE = 200
# bytes parsed at a time then, so that a flood is noticed before all of it is parsed
SLICE_BYTES = 8192
# average length of a flood's lines; a short event of a stream has 30 bytes for each of its two
SHORT = 16
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
        if data.count(b"\r\n") <= LINES_AT_ONCE:
            super().data_received(data)
            return
        for start in range(0, len(data), SLICE_BYTES):
            part = data[start : start + SLICE_BYTES]
            if self._flooded or part.count(b"\r\n") * SHORT > len(part) >= SLICE_BYTES // 2:
                # the request fails as with any lost connection
                self._abort()
                return
            super().data_received(part)

    def feed_data(self, data: Any, size: int = 0) -> None:
        if not self._flooded:
            self._interim = self._interim + 1 if 100 <= data[0].code < 200 else 0
        if self._flooded:
            self._abort()
        else:
            super().feed_data(data, size)

    @property
    def _flooded(self) -> bool:
        return self._interim > INTERIM_LIMIT

    def _abort(self) -> None:
        if self.transport is not None:
            self.transport.abort()
