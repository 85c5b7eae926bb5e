"""`/v1/stream` (server-sent events) and `/v1/ws` (WebSocket): live data from the bus.

Both send the same events.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Iterator
from typing import Annotated, Any

import msgspec
from blacksheep.contents import StreamedContent
from blacksheep.messages import Request, Response
from msgspec import Meta, Struct

from coinspace.endpoint.context import Context
from coinspace.endpoint.http.api import Routes, encode
from coinspace.endpoint.http.connection import Receive, Scope, Send, connection
from coinspace.endpoint.http.problem import Problem, invalid, operator_needed, retry_later
from coinspace.endpoint.live.channel_state import state
from coinspace.endpoint.live.channels import EventId, StreamQuery, channel, channels, check_count
from coinspace.endpoint.live.hub import Client, Kind, StreamEvent
from coinspace.endpoint.models import (
    Channels,
    ConsolidatedBook,
    GapsEvent,
    Heartbeat,
    Hello,
    LatestIndexValue,
    Pipeline,
    Pong,
    PremiumsEvent,
    Shutdown,
    StreamGap,
    Ticker,
    Trade,
    Venues,
)

routes = Routes()

WEBSOCKET = "/v1/ws"
EVENT_STREAM = "text/event-stream"
# example of an answer
STREAM = (
    "retry: 1000\n\n"
    'id: 19b7a3c5f40-81234\nevent: index\ndata: {"asset":"BTC","value":"64193.4"}\n\n'
    'event: heartbeat\ndata: {"ts":1767225600000}\n\n'
)
# browsers reconnect by themselves after this
RETRY_MS = 1000
ERRORS_LIMIT = 20
# commands a second of one WebSocket: each can ask for books of every asset
COMMANDS_LIMIT = 50
# the data of /v1/pipeline, which needs an operator's key
OPERATOR_CHANNEL = "pipeline"
# other clients wait for so long at most while a stream's first states are made
SLICE_S = 0.01
# first states that cost as much as many events: made at most once in `STATE_S` for all clients
EXPENSIVE = ("book", "venues", "pipeline")
STATE_S = 0.2
# close code: policy violation
CLOSE_POLICY = 1008


# event of both streams -> type of its data, and what it is
EVENTS: dict[str, tuple[type[Struct], str]] = {
    "index": (LatestIndexValue, "A new value of an index, as `/v1/indices/{asset}` has it"),
    "book": (ConsolidatedBook, "A new summed book, at most five a second"),
    "ticker": (Ticker, "A new ticker of a market"),
    "trade": (Trade, "A trade"),
    "premiums": (
        PremiumsEvent,
        "The premiums of all assets, then what changed, at most once a second",
    ),
    "venues": (Venues, "All venues, each second and with each change, as `/v1/venues` has them"),
    "gaps": (GapsEvent, "Losses on the bus that the endpoint has noticed"),
    "pipeline": (Pipeline, "All processes, each second, as `/v1/pipeline` has them"),
    "heartbeat": (Heartbeat, "The stream is alive; every `endpoint.heartbeat_s`, 5 s by default"),
    "gap": (StreamGap, "Events were lost: the resume was not possible, or the client is slow"),
    "shutdown": (Shutdown, "The server stops"),
}
# and of the WebSocket alone; `error` has a problem
REPLIES: dict[str, tuple[type[Struct], str]] = {
    "hello": (Hello, "The first message of a connection"),
    "subscribed": (Channels, "The channels of a `subscribe` are added"),
    "unsubscribed": (Channels, "The channels of an `unsubscribe` are removed"),
    "pong": (Pong, "The answer to `ping`"),
}


class Command(Struct, forbid_unknown_fields=True):
    """A message of a WebSocket client."""

    op: str
    channels: list[str] = []
    last_event_id: EventId | None = None
    id: (
        Annotated[int, Meta(ge=-(1 << 63), le=(1 << 63) - 1)]
        | Annotated[str, Meta(max_length=100)]
        | None
    ) = None


def state_events(context: Context, names: set[str]) -> Iterator[StreamEvent]:
    """Yield the newest state of each channel, for the begin of a stream."""
    for name in sorted(names):
        kind = name.partition(".")[0]
        data = (_shared_state if kind in EXPENSIVE else state)(context, name)
        if data is not None:
            # numbered, so that a client can resume from its first event
            yield StreamEvent(context.hub.number, name, kind, data, context.hub.boot)


def _shared_state(context: Context, name: str) -> bytes | None:
    now = time.monotonic()
    made = context.states.get(name)
    if made is None or now - made[0] > STATE_S:
        made = context.states[name] = (now, state(context, name))
    return made[1]


async def begin(context: Context, client: Client, names: set[str], last_id: str | None) -> None:
    """Send a client's first events: those that it missed, or a gap and the newest states."""
    hub = context.hub
    if last_id:
        missed = hub.missed_events(last_id, names)
        if missed is not None:
            hub.resumed += 1
            for event in missed:
                client.send(event)
            return
        gap = StreamGap(channel="*", reason="resume", last_event_id=last_id[:64])
        client.send(hub.gap_event(gap))
    since = time.monotonic()
    for event in state_events(context, names):
        client.send(event)
        if time.monotonic() - since > SLICE_S:
            # hundreds of books take longer than others may wait
            await asyncio.sleep(0)
            since = time.monotonic()


def check_role(scope: Any, names: set[str]) -> None:
    """Raise Problem 403 when the client's key does not allow a channel."""
    if OPERATOR_CHANNEL in names and not scope["coinspace.operator"]:
        raise operator_needed(OPERATOR_CHANNEL)


@routes.get(
    "/v1/stream",
    StreamQuery,
    tag="streams",
    media=(EVENT_STREAM,),
    examples={EVENT_STREAM: STREAM},
    problems=("unknown-asset", "unknown-market", "too-many-streams"),
    headers=(("Last-Event-ID", "id of the last received event: resume after it"),),
)
async def stream(context: Context, request: Request, parameters: StreamQuery) -> Response:
    """Live events as server-sent events.

    Events: `index`, `book`, `ticker`, `trade`, `venues`, `gaps`, `pipeline` carry the JSON
    of the route of that name. `premiums` first carries all premiums, then what changed.
    `heartbeat` is a sign of life. `gap` reports lost events (resume
    impossible, or a slow client's trades), `shutdown` reports that the server stops. A stream
    begins with the newest state of each channel. A client that reads slowly gets only the
    newest states.
    """
    hub = context.hub
    names = channels(context, parameters)
    check_role(request.scope, names)
    hub.check_room()
    headers = [(b"cache-control", b"no-store"), (b"x-accel-buffering", b"no")]
    if request.scope.get("coinspace.head"):
        return Response(200, [*headers, (b"content-type", EVENT_STREAM.encode())])
    origin = connection(request.scope)
    given = request.get_first_header(b"last-event-id")
    last_id = given.decode("latin-1") if given else parameters.last_event_id
    kind: Kind = "sse" if request.scope["http_version"] == "1.1" else "text"

    async def body() -> AsyncIterator[bytes]:
        # the first chunk sends the head of the answer; then the hub writes to the connection
        yield b"retry: %d\n\n" % RETRY_MS
        client = hub.join(origin, kind, names)
        try:
            await begin(context, client, names, last_id)
            await client.closed
        finally:
            hub.leave(client, "left")

    return Response(200, headers, StreamedContent(EVENT_STREAM.encode(), body))


@routes.get(WEBSOCKET, tag="streams", media=(), problems=("upgrade-required", "origin-refused"))
async def websocket_route(context: Context, request: Request, _: None) -> Response:
    """Live events over a WebSocket, whose client can subscribe and unsubscribe at any time.

    Client messages are JSON: `{"op":"subscribe","channels":["index.BTC"]}` (with
    `last_event_id` to resume), `{"op":"unsubscribe","channels":[…]}`, `{"op":"ping"}`; an `id`
    comes back with the answer. Channels: `index.ASSET`, `book.ASSET`,
    `ticker.EXCHANGE:BASE/QUOTE`, `trade.EXCHANGE:BASE/QUOTE`, `premiums`, `venues`, `gaps`,
    `pipeline`.
    Server messages are `{"event":…,"id":…,"channel":…,"data":…}` with the events of
    `/v1/stream`, and `hello`, `subscribed`, `unsubscribed`, `pong`, `error` (a problem).
    """
    raise Problem(
        "upgrade-required",
        "expected a WebSocket handshake (Upgrade: websocket), was a plain request",
        headers={"Upgrade": "websocket"},
    )


async def websocket(context: Context, scope: Scope, receive: Receive, send: Send) -> None:
    """Answer a WebSocket until its client leaves."""
    hub = context.hub
    hub.check_room()
    await receive()
    await send({"type": "websocket.accept"})
    client = hub.join(connection(scope), "websocket", set())
    try:
        await _converse(context, scope, receive, send, client)
    finally:
        hub.leave(client, "left")


async def _converse(
    context: Context, scope: Scope, receive: Receive, send: Send, client: Client
) -> None:
    errors = commands = 0
    since = time.monotonic()
    _reply(context, client, "hello", Hello(context.hub.boot, context.now_ms()))
    while (received := await receive())["type"] != "websocket.disconnect":
        now = time.monotonic()
        if now - since >= 1:
            since, commands = now, 0
        commands += 1
        try:
            if commands > COMMANDS_LIMIT:
                raise retry_later(
                    "too-many-requests", f"the limit is {COMMANDS_LIMIT} messages a second", 1
                )
            text = received.get("text") or received.get("bytes") or b""
            await _run(context, scope, client, text)
        except Problem as problem:
            errors += 1
            _reply(context, client, "error", msgspec.Raw(problem.body()))
            if errors >= ERRORS_LIMIT:
                reason = "too many errors"
                await send({"type": "websocket.close", "code": CLOSE_POLICY, "reason": reason})
                return


async def _run(context: Context, scope: Any, client: Client, text: str | bytes) -> None:
    try:
        command = msgspec.json.decode(text, type=Command)
    except (msgspec.DecodeError, UnicodeError) as error:
        raise Problem(
            "invalid-request",
            f'message: expected {{"op":…,"channels":[…]}}, {error}',
        ) from None
    hub = context.hub
    echo = msgspec.UNSET if command.id is None else command.id
    if command.op == "ping":
        _reply(context, client, "pong", Pong(context.now_ms(), echo))
        return
    if command.op not in ("subscribe", "unsubscribe"):
        raise invalid("op", f"expected subscribe, unsubscribe or ping, was {command.op[:40]!r}")
    check_count(len(command.channels))
    names = {channel(context, name) for name in command.channels}
    if not names:
        raise invalid("channels", "expected at least one")
    if command.op == "unsubscribe":
        hub.unsubscribe(client, names)
        _reply(context, client, "unsubscribed", Channels(sorted(names), echo))
        return
    check_role(scope, names)
    check_count(len(names | client.channels))
    fresh = names - client.channels
    hub.subscribe(client, fresh)
    _reply(context, client, "subscribed", Channels(sorted(names), echo))
    await begin(context, client, fresh, command.last_event_id)


def _reply(context: Context, client: Client, name: str, data: Struct | msgspec.Raw) -> None:
    event = StreamEvent(0, f"reply:{name}", name, encode(data), context.hub.boot)
    client.send(event)
