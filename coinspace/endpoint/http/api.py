"""The table of routes: one strict binder for parameters, one description for OpenAPI.

A route is a function of the context, a request and one struct of parameters: path and query values
together. msgspec converts the values to the struct. Unknown names, repeated names and invalid
values are answered with 400 before the function runs. The framework's own binding is not used: it
has no strict mode and no description for OpenAPI.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Awaitable, Callable
from typing import Any, Literal, get_args, get_origin, get_type_hints
from urllib.parse import parse_qsl

import msgspec
from blacksheep.contents import Content
from blacksheep.messages import Request, Response

from coinspace.endpoint.context import Context
from coinspace.endpoint.http.problem import TYPES, Problem, invalid, operator_needed
from coinspace.endpoint.values import decode_hook

JSON = "application/json"
QUERY_LIMIT = 4096
FIELDS_LIMIT = 32

Handler = Callable[[Context, Request, Any], Awaitable[Response]]


class Nothing(msgspec.Struct, forbid_unknown_fields=True):
    """No parameters."""


class Operation(msgspec.Struct, frozen=True, kw_only=True):
    """One route. Its handler's docstring is its documentation.

    Attributes:
        parameters: struct of path and query values; a field named in the path is a path value.
        answer: type of the JSON body, None for routes that do not answer JSON.
        media: all content types that the route can answer with.
        examples: content type -> an answer, for types other than JSON.
        problems: names of problems besides those that every route has.
        headers: request headers as (name, description).
        operator: where keys are required, answered only for an operator's key.
    """

    path: str
    handler: Handler
    parameters: type[msgspec.Struct] = Nothing
    answer: Any = None
    tag: str
    media: tuple[str, ...] = (JSON,)
    examples: dict[str, str] = {}
    problems: tuple[str, ...] = ()
    headers: tuple[tuple[str, str], ...] = ()
    operator: bool = False

    def __post_init__(self) -> None:
        unknown = set(self.problems) - TYPES.keys()
        assert not unknown, f"{self.path}: expected known problems, was {unknown}"

    @property
    def path_names(self) -> list[str]:
        """Names of the path values in order."""
        return re.findall(r"{(\w+)}", self.path)


class Routes(list[Operation]):
    """The table of one module's routes, filled by its decorators."""

    def get(
        self, path: str, parameters: type[msgspec.Struct] = Nothing, **facts: Any
    ) -> Callable[[Handler], Handler]:
        """Register a route. Args: facts: further attributes of its `Operation`."""

        def register(handler: Handler) -> Handler:
            self.append(Operation(path=path, handler=handler, parameters=parameters, **facts))
            return handler

        return register


def bound(operation: Operation, context: Context) -> Callable[[Request], Awaitable[Response]]:
    """Return the function that the framework calls for a route."""
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
    if "enum value" in sentence:
        sentence = f"expected one of {', '.join(_choices(kind, name))}"
    for word, plain in _WORDS.items():
        sentence = sentence.replace(word, plain)
    sentence = sentence.removesuffix(".0")
    sentence = sentence[0].lower() + sentence[1:]
    if " was " not in sentence:
        sentence = f"{sentence}, was {values.get(name, '')[:80]!r}"
    return invalid(name, sentence)


# msgspec's words in a person's
_WORDS = {
    " | null": "",
    "`int` <= ": "a whole number up to ",
    "`int` >= ": "a whole number from ",
    "`float` <= ": "a number up to ",
    "`float` >= ": "a number from ",
    "`float` > ": "a number above ",
    "`int`": "a whole number",
    "`float`": "a number",
    "`bool`": "true or false",
    "`str` of length <= ": "text of a length up to ",
    ", got `str`": "",
}


def _choices(kind: type[msgspec.Struct], name: str) -> list[str]:
    """Return the values that a parameter of a few words takes."""
    hint = get_type_hints(kind).get(name)
    literals = [one for one in (hint, *get_args(hint)) if get_origin(one) is Literal]
    return [str(word) for one in literals for word in get_args(one)]


def json_answer(body: bytes, *headers: tuple[bytes, bytes]) -> Response:
    """Return a JSON answer, which caches must not keep."""
    given = [*headers, (b"cache-control", b"no-store")]
    return Response(200, given, Content(b"application/json", body))


def encode(value: Any) -> bytes:
    """Encode an answer struct."""
    return msgspec.json.encode(value)


def with_etag(request: Request, content: Content, cache_control: bytes) -> Response:
    """Answer with a digest of the content as ETag, or 304 when the client has it."""
    tag = b'"%b"' % hashlib.sha256(content.body).hexdigest()[:24].encode()
    headers = [(b"etag", tag), (b"cache-control", cache_control)]
    given = request.get_first_header(b"if-none-match") or b""
    candidates = {one.strip().removeprefix(b"W/") for one in given.split(b",")}
    if tag in candidates or b"*" in candidates:
        return Response(304, headers)
    return Response(200, headers, content)
