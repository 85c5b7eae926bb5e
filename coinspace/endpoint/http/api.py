"""The table of routes: one strict binder for parameters, one description for OpenAPI.

A route is a function of the context, a request and one struct of parameters: path and query values
together. msgspec converts the values to the struct. Unknown names, repeated names and invalid
values are answered with 400 before the function runs. The framework's own binding is not used: it
has no strict mode and no description for OpenAPI.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Awaitable, Callable, Iterable
from typing import Any
from urllib.parse import parse_qsl

import msgspec
from blacksheep.contents import Content
from blacksheep.messages import Request, Response
from blacksheep.server.application import Application

from coinspace.endpoint.context import Context
from coinspace.endpoint.http.connection import App, Receive, Scope, Send
from coinspace.endpoint.http.problem import TYPES, Problem, invalid, operator_needed
from coinspace.endpoint.values import decode_hook

JSON = "application/json"
QUERY_LIMIT = 4096
FIELDS_LIMIT = 32

Handler = Callable[[Context, Request, Any], Awaitable[Response]]
WebSocket = Callable[[Context, Scope, Receive, Send], Awaitable[None]]


class Nothing(msgspec.Struct, forbid_unknown_fields=True):
    """No parameters."""


class Operation(msgspec.Struct, frozen=True):
    """One route.

    Attributes:
        parameters: struct of path and query values; a field named in the path is a path value.
        answer: type of the JSON body, None for routes that do not answer JSON.
        media: all content types that the route can answer with.
        problems: names of problems besides those that every route has.
        headers: request headers as (name, description).
        public: answered without a key.
        operator: where keys are required, answered only for an operator's key.
    """

    path: str
    handler: Handler
    parameters: type[msgspec.Struct]
    answer: Any
    tag: str
    media: tuple[str, ...]
    problems: tuple[str, ...]
    headers: tuple[tuple[str, str], ...]
    public: bool
    operator: bool

    @property
    def path_names(self) -> list[str]:
        """Names of the path values in order."""
        return re.findall(r"{(\w+)}", self.path)


class Routes:
    """The table of one module's routes, filled by its decorators."""

    def __init__(self) -> None:
        self.operations: list[Operation] = []
        # path -> handler of a WebSocket
        self.websockets: dict[str, WebSocket] = {}

    def get(
        self,
        path: str,
        parameters: type[msgspec.Struct] = Nothing,
        *,
        answer: Any = None,
        tag: str,
        media: tuple[str, ...] = (JSON,),
        problems: tuple[str, ...] = (),
        headers: tuple[tuple[str, str], ...] = (),
        public: bool = False,
        operator: bool = False,
    ) -> Callable[[Handler], Handler]:
        """Register a route; the handler's docstring is its documentation."""
        for name in problems:
            TYPES[name]

        def register(handler: Handler) -> Handler:
            self.operations.append(
                Operation(
                    path,
                    handler,
                    parameters,
                    answer=answer,
                    tag=tag,
                    media=media,
                    problems=problems,
                    headers=headers,
                    public=public,
                    operator=operator,
                )
            )
            return handler

        return register

    def websocket(self, path: str) -> Callable[[WebSocket], WebSocket]:
        """Register the handler of a WebSocket."""

        def register(handler: WebSocket) -> WebSocket:
            self.websockets[path] = handler
            return handler

        return register


class Api:
    """All tables of routes, bound to the context.

    Attributes: operations: in the order of the document; websockets: path -> handler.
    """

    def __init__(self, context: Context, tables: Iterable[Routes]) -> None:
        self._context = context
        self.operations: list[Operation] = []
        self.websockets: dict[str, App] = {}
        for table in tables:
            self.operations += table.operations
            for path, handler in table.websockets.items():
                self.websockets[path] = functools.partial(handler, context)

    def install(self, app: Application) -> None:
        """Add every operation to the application's router."""
        for operation in self.operations:
            app.router.add_get(operation.path, _bound(operation, self._context))


def _bound(operation: Operation, context: Context) -> Callable[[Request], Awaitable[Response]]:
    kind, handler = operation.parameters, operation.handler
    if kind is Nothing:

        async def handle(request: Request) -> Response:
            if request.scope["query_string"]:
                bind(request, kind)
            return await handler(context, request, None)
    else:

        async def handle(request: Request) -> Response:
            return await handler(context, request, bind(request, kind))

    return _for_operators(operation.path, handle) if operation.operator else handle


def _for_operators(
    path: str, handle: Callable[[Request], Awaitable[Response]]
) -> Callable[[Request], Awaitable[Response]]:
    # checked behind the router, which accepts several spellings of a path
    async def checked(request: Request) -> Response:
        scope: Any = request.scope
        if not scope["coinspace.operator"]:
            raise operator_needed(path)
        return await handle(request)

    return checked


def bind(request: Request, kind: type[msgspec.Struct]) -> Any:
    """Convert path and query values to the parameters struct.

    Raises: Problem 400 naming the parameter, what was expected and the value.
    """
    values: dict[str, str] = {k: v or "" for k, v in (request.route_values or {}).items()}
    query = request.scope["query_string"]
    if query:
        _query(query, values)
    try:
        return msgspec.convert(values, kind, strict=False, dec_hook=decode_hook)
    except msgspec.ValidationError as error:
        raise _invalid(str(error), values, kind) from None


def _query(query: bytes, values: dict[str, str]) -> None:
    if len(query) > QUERY_LIMIT:
        raise Problem(
            "invalid-request", f"query: expected at most {QUERY_LIMIT} bytes, was {len(query)}"
        )
    try:
        pairs = parse_qsl(
            query.decode("ascii"),
            keep_blank_values=True,
            strict_parsing=True,
            errors="strict",
            max_num_fields=FIELDS_LIMIT,
        )
    except (ValueError, UnicodeDecodeError) as error:
        raise Problem(
            "invalid-request", f"query: expected name=value pairs in UTF-8, {error}"
        ) from None
    for name, value in pairs:
        if not value.isprintable():
            raise invalid(name[:80], f"expected printable text, was {value[:80]!r}")
        if name in values:
            raise invalid(name[:80], "expected once, was given twice")
        values[name] = value


def _invalid(text: str, values: dict[str, str], kind: type[msgspec.Struct]) -> Problem:
    # "Expected `int` >= 1 - at `$.limit`" -> the parameter's name and a sentence
    sentence, _, place = text.partition(" - at `$.")
    name = place.rstrip("`")
    if not name:
        quoted = re.search(r"`(.+)`", sentence)
        unknown = quoted.group(1) if quoted else ""
        known = ", ".join(kind.__struct_fields__) or "none"
        if "unknown field" in sentence:
            return invalid(unknown[:80], f"no such parameter, expected: {known}")
        return Problem("invalid-parameter", f"{sentence}; parameters: {known}", parameter=unknown)
    sentence = sentence[0].lower() + sentence[1:]
    if " was " not in sentence:
        sentence = f"{sentence}, was {values.get(name, '')[:80]!r}"
    return invalid(name, sentence)


def json_answer(body: bytes, *headers: tuple[bytes, bytes], status: int = 200) -> Response:
    """Return a JSON answer; caches must not keep it unless the headers allow it."""
    given = list(headers)
    if not any(name == b"cache-control" for name, _ in given):
        given.append((b"cache-control", b"no-store"))
    return Response(status, given, Content(b"application/json", body))


def encode(value: Any) -> bytes:
    """Encode an answer struct."""
    return msgspec.json.encode(value)


def with_etag(request: Request, body: bytes, etag: str, cache_control: str) -> Response:
    """Answer with an ETag, or 304 when the client has it."""
    tag = f'"{etag}"'.encode()
    headers = [(b"etag", tag), (b"cache-control", cache_control.encode())]
    given = request.get_first_header(b"if-none-match") or b""
    candidates = {one.strip().removeprefix(b"W/") for one in given.split(b",")}
    if tag in candidates or b"*" in candidates:
        return Response(304, headers)
    return Response(200, headers, Content(b"application/json", body))
