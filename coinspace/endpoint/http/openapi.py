"""The OpenAPI 3.1 document, generated from the table of routes and the types of its answers.

The JSON Schema of every struct comes from msgspec.
"""

from __future__ import annotations

import inspect
from typing import Any

import msgspec

from coinspace import __version__
from coinspace.endpoint.http import schemas
from coinspace.endpoint.http.api import JSON, Operation
from coinspace.endpoint.http.gate import PUBLIC
from coinspace.endpoint.http.problem import TYPE_PREFIX, TYPES

PROBLEM_JSON = "application/problem+json"
# every route can answer with these; routes that are not public also with `PROTECTED`
ALWAYS = (
    "invalid-parameter",
    "invalid-request",
    "method-not-allowed",
    "request-timeout",
    "body-too-large",
    "target-too-long",
    "unknown-host",
    "headers-too-large",
    "too-many-connections",
    "too-many-requests",
    "internal-error",
)
PROTECTED = ("key-required", "key-refused", "role-required")

TAGS = {
    "indices": "The index: latest value, history, candles, explanation",
    "premium": "The kimchi premium: now, how unusual it is, what trades leave of it, history",
    "books": "Order books: summed over exchanges, or one exchange's",
    "market": "Tickers and trades as collected",
    "platform": "Venues, gaps, methodology, health",
    "streams": "Live data",
}


class ProblemBody(msgspec.Struct, rename={"kind": "type"}):
    """An error (RFC 9457); some types have further members."""

    kind: str
    title: str
    status: int
    detail: str


def described(operations: list[Operation], more: tuple[Any, ...] = ()) -> dict[str, Any]:
    """Return the schemas of all answers, parameters and further types by name."""
    answers = [operation.answer for operation in operations if operation.answer]
    components = schemas.components(
        [ProblemBody, *answers, *more], [operation.parameters for operation in operations]
    )
    # the list is complete, and the types are stable
    components["ProblemBody"]["properties"]["type"]["enum"] = [TYPE_PREFIX + name for name in TYPES]
    return components


def document(operations: list[Operation]) -> dict[str, Any]:
    """Return the document as a JSON-ready dict."""
    components = described(operations)
    parameters = {operation.parameters.__name__ for operation in operations}
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "CoinSpace",
            "version": __version__,
            "summary": "Realtime crypto index, order books, tickers and trades",
            "description": (
                "Prices and sizes are decimal strings, times epoch milliseconds, ranges half-open"
                " (`start` belongs to the range, `end` does not). Errors are problem+json (RFC"
                " 9457); their `type` is stable. Every value carries its status and age."
            ),
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "tags": [{"name": name, "description": text} for name, text in TAGS.items()],
        "paths": {one.path: {"get": _operation(one, components)} for one in operations},
        "components": {
            "schemas": {k: v for k, v in sorted(components.items()) if k not in parameters},
            "securitySchemes": {
                "key": {
                    "type": "http",
                    "scheme": "bearer",
                    "description": "API key of `coinspace keys new`; not needed on loopback",
                },
                "header": {"type": "apiKey", "in": "header", "name": "X-API-Key"},
            },
        },
        # loopback needs no key, hence the empty alternative
        "security": [{}, {"key": []}, {"header": []}],
    }


def _operation(operation: Operation, components: dict[str, Any]) -> dict[str, Any]:
    lines = (inspect.getdoc(operation.handler) or operation.path).split("\n", 1)
    described: dict[str, Any] = {
        "operationId": operation.handler.__name__,
        "summary": lines[0].rstrip("."),
        "tags": [operation.tag],
        "parameters": _parameters(operation, components),
        "responses": _responses(operation, components),
    }
    if len(lines) > 1 and lines[1].strip():
        described["description"] = lines[1].strip()
    if operation.path in PUBLIC:
        described["security"] = [{}]
    return described


def _parameters(operation: Operation, components: dict[str, Any]) -> list[dict[str, Any]]:
    schema = components[operation.parameters.__name__]
    required = set(schema.get("required", ()))
    listed = []
    for name, one in schema["properties"].items():
        in_path = name in operation.path_names
        # a query has no null: an absent parameter is left out
        alternatives = [part for part in one.get("anyOf", ()) if part != {"type": "null"}]
        if alternatives:
            one = {**alternatives[0], **one}
            one.pop("anyOf")
        if one.get("default", ...) is None:
            one = {key: value for key, value in one.items() if key != "default"}
        parameter = {
            "name": name,
            "in": "path" if in_path else "query",
            "required": in_path or name in required,
            "schema": one,
        }
        if "description" in one:
            parameter["description"] = one["description"]
        if parameter["required"] and one.get("examples"):
            # fills the field of "Try it out"
            parameter["example"] = one["examples"][0]
        listed.append(parameter)
    for name, text in operation.headers:
        listed.append(
            {
                "name": name,
                "in": "header",
                "required": False,
                "description": text,
                "schema": {"type": "string"},
            }
        )
    return listed


_LIMITS = {
    "RateLimit": {
        "description": "requests left, and seconds until the limit is reset",
        "schema": {"type": "string"},
    },
    "RateLimit-Policy": {
        "description": "quota and window in seconds",
        "schema": {"type": "string"},
    },
}
_RETRY = {
    "Retry-After": {"description": "seconds to wait", "schema": {"type": "integer", "minimum": 0}}
}
_ALLOW = {"Allow": {"description": "methods of this route", "schema": {"type": "string"}}}


def _responses(operation: Operation, components: dict[str, Any]) -> dict[str, Any]:
    content: dict[str, Any] = {}
    for media in operation.media:
        content[media] = {"schema": {"type": "string"}}
        if media == JSON:
            content[media] = {
                "schema": schemas.reference(operation.answer),
                "example": schemas.example(operation.answer.__name__, components),
            }
        elif media in operation.examples:
            content[media]["example"] = operation.examples[media]
    responses: dict[str, Any] = {
        "200": {"description": "OK", "headers": _LIMITS, "content": content}
    }
    if not operation.media:
        responses = {"101": {"description": "The connection becomes a WebSocket"}}
    if any(name == "If-None-Match" for name, _ in operation.headers):
        responses["304"] = {"description": "The client already has this answer"}
    names = [*ALWAYS, *operation.problems]
    if operation.path not in PUBLIC:
        names += PROTECTED
    for name in names:
        status, title = TYPES[name]
        key = str(status)
        shown = {
            "type": TYPE_PREFIX + name,
            "title": title,
            "status": status,
            "detail": "what was expected, what was found, what to do",
        }
        if key in responses:
            responses[key]["description"] += f"; `{name}`: {title}"
            responses[key]["content"][PROBLEM_JSON]["examples"][name] = {"value": shown}
            continue
        responses[key] = {
            "description": f"`{name}`: {title}",
            "content": {
                PROBLEM_JSON: {
                    "schema": schemas.reference(ProblemBody),
                    "examples": {name: {"value": shown}},
                },
            },
        }
        if status in (429, 503):
            responses[key]["headers"] = _RETRY
        if status == 405:
            responses[key]["headers"] = _ALLOW
    return dict(sorted(responses.items()))
