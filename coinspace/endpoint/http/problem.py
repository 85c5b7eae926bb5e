"""Errors as RFC 9457 problem+json: one stable type per cause, values as separate members."""

from __future__ import annotations

from typing import Any

import orjson
from blacksheep.contents import Content
from blacksheep.exceptions import HTTPException
from blacksheep.messages import Response

from coinspace.errors import DatabaseUnavailable, QueryTimeout, StorageError

MEDIA = b"application/problem+json"
TYPE_PREFIX = "urn:coinspace:problem:"
# a restart of the database takes about this long
DATABASE_RETRY_S = 3

# name: (status, title); the name is part of the public type and never changes
TYPES: dict[str, tuple[int, str]] = {
    "invalid-parameter": (400, "A parameter is invalid"),
    "invalid-cursor": (400, "The cursor was not made by this route"),
    "invalid-request": (400, "The request cannot be read"),
    "key-required": (401, "An API key is needed"),
    "key-refused": (401, "The API key is unknown or revoked"),
    "role-required": (403, "The API key's role does not allow this"),
    "origin-refused": (403, "Pages of this origin may not connect"),
    "unknown-route": (404, "There is no such route"),
    "unknown-asset": (404, "The asset has no index here"),
    "unknown-market": (404, "The market is not collected"),
    "no-data": (404, "There is no data for this request"),
    "method-not-allowed": (405, "The route does not have this method"),
    "not-acceptable": (406, "None of the accepted formats can be served"),
    "request-timeout": (408, "The request took too long to arrive"),
    "body-too-large": (413, "The request's body is too large"),
    "target-too-long": (414, "The request's path and query are too long"),
    "unknown-host": (421, "The server does not have this name"),
    "upgrade-required": (426, "The route needs a WebSocket"),
    "too-many-requests": (429, "The rate limit is used up"),
    "headers-too-large": (431, "The request's headers are too many or too large"),
    "internal-error": (500, "An internal error occurred"),
    "database-unavailable": (503, "The database cannot be reached"),
    "query-timeout": (503, "The database took too long"),
    "too-many-connections": (503, "The server has no room for another connection"),
    "too-many-downloads": (503, "The server has no room for another download"),
    "too-many-streams": (503, "The server has no room for another stream"),
    "not-ready": (503, "The server has no data yet"),
}


class Problem(HTTPException):
    """An error answer.

    Attributes: name (key of TYPES), detail, headers, extra members of the JSON object.
    """

    def __init__(
        self, name: str, detail: str, *, headers: dict[str, str] | None = None, **extra: Any
    ) -> None:
        status, self.title = TYPES[name]
        super().__init__(status, detail)
        self.name = name
        self.detail = detail
        self.headers = headers or {}
        self.extra = extra

    def body(self) -> bytes:
        """Return the JSON object."""
        return orjson.dumps(
            {
                "type": TYPE_PREFIX + self.name,
                "title": self.title,
                "status": self.status,
                "detail": self.detail,
                **self.extra,
            }
        )

    def fields(self) -> list[tuple[bytes, bytes]]:
        """Return the answer's headers, without those of its body."""
        headers = [(key.lower().encode(), value.encode()) for key, value in self.headers.items()]
        return [*headers, (b"cache-control", b"no-store")]

    def response(self) -> Response:
        """Return the HTTP answer."""
        return Response(self.status, self.fields(), Content(MEDIA, self.body()))


def invalid(name: str, text: str) -> Problem:
    """Return the problem of a parameter. Args: text: what was expected, and what it was."""
    return Problem("invalid-parameter", f"{name}: {text}", parameter=name)


def operator_needed(what: str) -> Problem:
    """Return the problem of a reader's key that asks for data of operators."""
    return Problem("role-required", f"{what}: expected a key with role operator, was a reader's")


def unknown_route(path: str) -> Problem:
    """Return the problem of a path without a route."""
    return Problem("unknown-route", f"no route {path[:200]}; /docs lists all")


def of_storage(error: StorageError) -> Problem:
    """Return the problem of a database that cannot answer."""
    names = {DatabaseUnavailable: "database-unavailable", QueryTimeout: "query-timeout"}
    return retry_later(names.get(type(error), "not-ready"), str(error), DATABASE_RETRY_S)


def retry_later(name: str, detail: str, seconds: int) -> Problem:
    """Return a problem that says when to try again."""
    return Problem(name, detail, headers={"Retry-After": str(seconds)}, retry_after=seconds)
