"""The AsyncAPI 3.0 document of the streams, from the types of their events."""

from __future__ import annotations

from typing import Any

from msgspec import Struct

from coinspace import __version__
from coinspace.endpoint.http import schemas
from coinspace.endpoint.http.openapi import ProblemBody

Events = dict[str, tuple[type[Struct], str]]
SSE, WEBSOCKET = "/v1/stream", "/v1/ws"
OPS = {
    "subscribe": "Add channels; `last_event_id` resumes them after that event",
    "unsubscribe": "Remove channels",
    "ping": "Ask for a `pong`",
}
# examples of ids and channels
_ID, _CHANNEL = "19b7a3c5f40-81234", "index.BTC"


def document(events: Events, replies: Events) -> dict[str, Any]:
    """Return the document as a JSON-ready dict.

    Args: events: name -> type and summary, of both streams. replies: those of the WebSocket alone.
    """
    replies = {**replies, "error": (ProblemBody, "A command cannot be carried out: a problem")}
    all_events = {**events, **replies}
    found = schemas.components([kind for kind, _ in all_events.values()], [])
    return {
        "asyncapi": "3.0.0",
        "info": {
            "title": "CoinSpace streams",
            "version": __version__,
            "description": (
                "Live events as server-sent events (`/v1/stream`) and over a WebSocket (`/v1/ws`),"
                " with the same data. `/openapi.json` describes the parameters of `/v1/stream`."
            ),
            "license": {"name": "Apache-2.0"},
        },
        "defaultContentType": "application/json",
        "servers": {
            "http": {"host": "127.0.0.1:8080", "protocol": "http"},
            "websocket": {"host": "127.0.0.1:8080", "protocol": "ws"},
        },
        "channels": {
            "stream": _channel(SSE, "http", "Server-sent events", _messages(events, "sse")),
            "websocket": _channel(
                WEBSOCKET,
                "websocket",
                "WebSocket of JSON texts",
                _messages(all_events, "websocket") | _messages(OPS, "command"),
            ),
        },
        "operations": {
            "events": _operation("send", "stream", _messages(events, "sse")),
            "messages": _operation("send", "websocket", _messages(all_events, "websocket")),
            "commands": _operation("receive", "websocket", _messages(OPS, "command")),
        },
        "components": {
            "messages": {
                **{f"sse-{name}": _event(name, *one, found) for name, one in events.items()},
                **{
                    f"websocket-{name}": _framed(name, *one, found)
                    for name, one in all_events.items()
                },
                **{f"command-{op}": _command(op, text) for op, text in OPS.items()},
            },
            "schemas": dict(sorted(found.items())),
        },
    }


def _channel(
    address: str, server: str, title: str, messages: dict[str, dict[str, str]]
) -> dict[str, Any]:
    return {
        "address": address,
        "title": title,
        "servers": [{"$ref": f"#/servers/{server}"}],
        "messages": messages,
    }


def _messages(names: dict[str, Any], kind: str) -> dict[str, dict[str, str]]:
    keys = (f"{kind}-{name}" for name in names)
    return {key: {"$ref": f"#/components/messages/{key}"} for key in keys}


def _operation(action: str, channel: str, messages: dict[str, Any]) -> dict[str, Any]:
    return {
        "action": action,
        "channel": {"$ref": f"#/channels/{channel}"},
        "messages": [{"$ref": f"#/channels/{channel}/messages/{key}"} for key in messages],
    }


def _event(
    name: str, kind: type[Struct], summary: str, found: dict[str, schemas.Schema]
) -> dict[str, Any]:
    """Return the message of a server-sent event: the payload is that of its `data`."""
    return {
        "name": name,
        "summary": summary,
        "payload": schemas.reference(kind),
        "examples": [{"payload": schemas.example(kind.__name__, found)}],
    }


def _framed(
    name: str, kind: type[Struct], summary: str, found: dict[str, schemas.Schema]
) -> dict[str, Any]:
    """Return the message of a WebSocket: event, id, channel and data in one object."""
    shown = {
        "event": name,
        "id": _ID if name == "index" else None,
        "channel": _CHANNEL if name == "index" else f"reply:{name}",
        "data": schemas.example(kind.__name__, found),
    }
    payload = {
        "type": "object",
        "required": ["event", "id", "channel", "data"],
        "properties": {
            "event": {"const": name, "description": "name of the event"},
            "id": {
                "type": ["string", "null"],
                "description": "position for `last_event_id`; null where nothing can be resumed",
            },
            "channel": {"type": "string", "description": "channel of the event"},
            "data": {**schemas.reference(kind), "description": summary},
        },
        "additionalProperties": False,
    }
    return {
        "name": name,
        "summary": summary,
        "payload": payload,
        "examples": [{"payload": shown}],
    }


def _command(op: str, summary: str) -> dict[str, Any]:
    properties: dict[str, Any] = {
        "op": {"const": op, "description": "what to do"},
        "id": {
            "type": ["integer", "string", "null"],
            "maxLength": 100,
            "description": "comes back with the answer",
        },
    }
    required, shown = ["op"], {"op": op, "id": 1}
    if op != "ping":
        required.append("channels")
        shown["channels"] = [_CHANNEL]
        properties["channels"] = {
            "type": "array",
            "items": {"type": "string"},
            "minItems": 1,
            "description": "index.ASSET, book.ASSET, ticker.EXCHANGE:BASE/QUOTE,"
            " trade.EXCHANGE:BASE/QUOTE, premiums, venues, gaps or pipeline",
        }
    if op == "subscribe":
        properties["last_event_id"] = {
            "type": ["string", "null"],
            "maxLength": 64,
            "description": "the last received event: the channels go on after it",
        }
    return {
        "name": op,
        "summary": summary,
        "payload": {
            "type": "object",
            "required": required,
            "properties": properties,
            "additionalProperties": False,
        },
        "examples": [{"payload": shown}],
    }
