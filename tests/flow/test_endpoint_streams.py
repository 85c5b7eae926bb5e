"""Streams of the endpoint: resume, gaps, slow clients, clients that vanish."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import socket
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import jsonschema_rs
import orjson
import pytest
import pytest_asyncio

from coinspace.client.events import Event, EventParser, merged_premiums
from coinspace.endpoint.worker import Endpoint
from coinspace.method.record import InputRecord, PremiumRecord
from tests.flow.endpoint_stage import Stage, running, settings
from tests.waiting import until

# not a limit of the product: a busy machine is slow
SOON_S = 60.0

Site = tuple[Stage, Endpoint, aiohttp.ClientSession]


@pytest_asyncio.fixture
async def site(tmp_path: Path) -> AsyncIterator[Site]:
    chosen = settings(tmp_path, heartbeat_s=1.0, stream_stall_s=2.0, resume_s=30.0)
    async with (
        running(chosen) as (stage, endpoint),
        aiohttp.ClientSession(endpoint.server.url) as session,
    ):
        yield stage, endpoint, session


class Reader:
    """Reads one SSE stream."""

    def __init__(self, answer: aiohttp.ClientResponse) -> None:
        self.answer = answer
        self._parser = EventParser()
        self._events: list[Event] = []

    async def next(self, name: str | None = None) -> Event:
        """Return the next event of a name, by default of any but a heartbeat."""
        async with asyncio.timeout(SOON_S):
            while True:
                event = await self.any()
                if event.name == name or (name is None and event.name != "heartbeat"):
                    return event

    async def any(self) -> Event:
        """Return the next event."""
        while not self._events:
            data = await self.answer.content.readany()
            if not data:
                raise ConnectionError("the stream ended")
            self._events += self._parser.feed(data)
        return self._events.pop(0)

    async def value(self, wanted: str) -> Event:
        """Return the next event of an index that has this value."""
        while (event := await self.next("index")).data["value"] != wanted:
            pass
        return event


@contextlib.asynccontextmanager
async def stream(
    session: aiohttp.ClientSession, query: str, last_id: str = ""
) -> AsyncIterator[Reader]:
    headers = {"Last-Event-ID": last_id} if last_id else {}
    async with session.get(f"/v1/stream?{query}", headers=headers) as answer:
        assert answer.status == 200, await answer.text()
        assert answer.content_type == "text/event-stream"
        yield Reader(answer)


async def test_a_stream_begins_with_the_state_and_continues_live(site: Site) -> None:
    stage, _, session = site
    async with stream(session, "indices=BTC&tickers=upbit:BTC/KRW&platform=venues") as reader:
        names = {(await reader.next()).name for _ in range(3)}
        assert names == {"index", "ticker", "venues"}
        stage.publish_index("BTC", 123.5)
        event = await reader.next("index")
        assert event.data["value"] == "123.5"
        assert event.id
        assert (await reader.next("heartbeat")).data["ts"] > 0


async def test_events_are_those_of_the_document(site: Site) -> None:
    stage, endpoint, session = site
    document = await (await session.get("/asyncapi.json")).json()
    messages = document["components"]["messages"]
    seen: set[str] = set()

    def take(kind: str, name: str, payload: Any) -> None:
        schema = {**messages[f"{kind}-{name}"]["payload"], "components": document["components"]}
        errors = list(jsonschema_rs.Draft202012Validator(schema).iter_errors(payload))
        assert not errors, (kind, name, [one.message for one in errors])
        seen.add(f"{kind}-{name}")

    wanted = {name for name in messages if not name.startswith("command-")}
    names = ["index.BTC", "book.BTC", "ticker.upbit:BTC/KRW", "trade.upbit:BTC/KRW"]
    tables = ["premiums", "venues", "gaps", "pipeline"]
    orders: list[dict[str, Any]] = [
        {"op": "ping", "id": 1},
        {"op": "subscribe", "channels": [*names, *tables], "last_event_id": "other-7", "id": "a"},
        {"op": "unsubscribe", "channels": ["book.ETH"]},
        {"op": "dance"},
    ]
    for order in orders[:3]:
        schema = messages[f"command-{order['op']}"]["payload"]
        assert jsonschema_rs.is_valid(schema, order)
    assert not jsonschema_rs.is_valid(messages["command-subscribe"]["payload"], {"op": "subscribe"})

    async def read_events(reader: Reader) -> None:
        while not {one for one in wanted if one.startswith("sse-")} <= seen:
            event = await reader.any()
            take("sse", event.name, event.data)

    async def read_messages(socket: aiohttp.ClientWebSocketResponse) -> None:
        while not {one for one in wanted if one.startswith("websocket-")} <= seen:
            message = await socket.receive_json(timeout=SOON_S)
            take("websocket", message["event"], message)

    query = "indices=BTC&books=BTC&tickers=*&trades=upbit:BTC/KRW&premiums=true"
    query += "&platform=venues,gaps,pipeline"
    async with (
        stream(session, query, "other-7") as reader,
        session.ws_connect("/v1/ws") as socket,
    ):
        for order in orders:
            await socket.send_json(order)
        reading = asyncio.gather(read_events(reader), read_messages(socket))
        before_the_end = {name for name in wanted if not name.endswith("-shutdown")}

        async def everything_else() -> bool:
            stage.publish_all()
            endpoint.live.on_gap(b"orderbook.upbit.BTC/KRW.", 1, 5, 8)
            if reading.done():
                await reading
            return before_the_end <= seen

        await until(everything_else)
        endpoint.hub.shutdown()
        async with asyncio.timeout(SOON_S):
            await reading
    assert seen == wanted


async def test_a_head_request_gets_no_stream(site: Site) -> None:
    stage, endpoint, session = site
    opened = endpoint.hub.opened
    async with session.head("/v1/stream?indices=BTC") as answer:
        assert (answer.status, answer.content_type) == (200, "text/event-stream")
    stage.publish_index("BTC", 9.5)
    # the connection still serves requests, and no stream was written into it
    async with session.get("/v1/indices/BTC") as answer:
        assert answer.status == 200
        assert (await answer.json())["asset"] == "BTC"
    assert endpoint.hub.opened == opened


async def test_a_stream_resumes_after_the_last_event(site: Site) -> None:
    stage, endpoint, session = site
    async with stream(session, "indices=BTC") as reader:
        await reader.next("index")
        stage.publish_index("BTC", 1.5)
        last = (await reader.value("1.5")).id
    await until(lambda: not endpoint.hub.clients)
    for value in (2.5, 3.5, 4.5):
        stage.publish_index("BTC", value)
    await until(lambda: endpoint.live.indices["BTC"].record.value == 4.5)
    async with stream(session, "indices=BTC", last) as reader:
        found = [(await reader.next("index")).data["value"] for _ in range(3)]
        assert found == ["2.5", "3.5", "4.5"]
        stage.publish_index("BTC", 5.5)
        assert (await reader.next("index")).data["value"] == "5.5"


async def test_premiums_are_all_of_them_and_then_what_changes(site: Site) -> None:
    stage, endpoint, session = site

    def publish(asset: str, coin: float) -> None:
        parts = PremiumRecord(None, coin, None)
        stage.publish_index(asset, premium=coin, premium_parts=parts)

    async def read(reader: Reader, rows: dict[str, Any], asset: str, coin: str) -> Event:
        """Take changes until an asset has a premium; return the event that has it."""
        while True:
            event = await reader.next("premiums")
            assert not event.data["full"]
            # what never changes is not sent again
            assert not any("same_coin" in row for row in event.data["premiums"])
            rows |= merged_premiums(rows, event.data)
            if rows[asset]["coin"] == coin:
                return event

    async with stream(session, "premiums=true") as reader:
        first = await reader.next("premiums")
        assert first.data["full"]
        rows = merged_premiums({}, first.data)
        assert set(rows) == {"BTC", "ETH", "XRP", "SOL"}
        publish("BTC", 0.02)
        last = await read(reader, rows, "BTC", "0.02")
    await until(lambda: not endpoint.hub.clients)
    publish("ETH", 0.03)
    # the channel is kept while the client may come back
    await until(lambda: any(b'"0.03"' in event.data for event in endpoint.hub.ring))
    async with stream(session, "premiums=true", last.id) as reader:
        await read(reader, rows, "ETH", "0.03")
    async with stream(session, "premiums=true", "other-7") as reader:
        assert (await reader.next()).name == "gap"
        event = await reader.next("premiums")
        assert event.data["full"]
        whole = merged_premiums({}, event.data)
        assert (whole["BTC"]["coin"], whole["ETH"]["coin"]) == ("0.02", "0.03")


@pytest.mark.parametrize("last", ["otherboot-7", "nonsense", "x" * 200, "-", "0-999999999999999"])
async def test_an_impossible_resume_is_a_gap_and_the_newest_state(site: Site, last: str) -> None:
    async with stream(site[2], "indices=BTC", last) as reader:
        gap = await reader.next()
        assert (gap.name, gap.data["reason"]) == ("gap", "resume")
        assert (await reader.next()).name == "index"


async def test_a_channel_cannot_be_resumed_from_before_it_was_made(site: Site) -> None:
    stage, _, session = site
    async with stream(session, "indices=BTC") as reader:
        await reader.next("index")
        stage.publish_index("BTC", 1.5)
        last = (await reader.next("index")).id
        stage.publish_index("BTC", 2.5)
        await reader.next("index")
    async with stream(session, "indices=ETH", last) as reader:
        assert (await reader.next()).name == "gap"


async def test_shutdown_is_announced(tmp_path: Path) -> None:
    async with (
        running(settings(tmp_path)) as (_, endpoint),
        aiohttp.ClientSession(endpoint.server.url) as session,
        stream(session, "indices=BTC") as reader,
        session.ws_connect("/v1/ws") as ws,
    ):
        await reader.next("index")
        await ws.receive_json()
        stopping = asyncio.create_task(endpoint.stop())
        assert (await reader.next("shutdown")).data["reason"]
        await _until_event(ws, "shutdown")
        assert (await ws.receive()).type in (
            aiohttp.WSMsgType.CLOSE,
            aiohttp.WSMsgType.CLOSED,
            aiohttp.WSMsgType.CLOSING,
        )
        async with asyncio.timeout(SOON_S):
            await stopping


async def test_websocket_subscribes_and_unsubscribes(site: Site) -> None:
    stage, _, session = site
    async with session.ws_connect("/v1/ws") as ws:
        assert (await ws.receive_json())["event"] == "hello"
        await ws.send_json({"op": "subscribe", "channels": ["index.BTC"], "id": 7})
        assert (await _until_event(ws, "subscribed"))["data"]["id"] == 7
        assert (await _until_event(ws, "index"))["channel"] == "index.BTC"
        stage.publish_index("BTC", 77.5)
        event = await _until_event(ws, "index")
        assert event["data"]["value"] == "77.5"
        await ws.send_json({"op": "unsubscribe", "channels": ["index.BTC"]})
        await _until_event(ws, "unsubscribed")
        stage.publish_index("BTC", 78.5)
        await ws.send_json({"op": "ping"})
        assert (await _until_event(ws, "pong", ("heartbeat",)))["data"]["ts"]


async def _until_event(
    ws: aiohttp.ClientWebSocketResponse,
    name: str,
    between: tuple[str, ...] = ("heartbeat", "index"),
) -> Any:
    async with asyncio.timeout(SOON_S):
        while True:
            event = await ws.receive_json()
            if event["event"] == name:
                return event
            assert event["event"] in between, event


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("not json", "invalid-request"),
        ('{"op":"subscribe"}', "invalid-parameter"),
        ('{"op":"dance","channels":["index.BTC"]}', "invalid-parameter"),
        ('{"op":"subscribe","channels":["index.DOGE"]}', "unknown-asset"),
        ('{"op":"subscribe","channels":["everything"]}', "invalid-parameter"),
        ('{"op":"subscribe","channels":["index.BTC"],"more":1}', "invalid-request"),
        ('{"op":"subscribe","channels":[5]}', "invalid-request"),
        (b"\x00\xff\xfe", "invalid-request"),
    ],
)
async def test_websocket_errors_are_answered(site: Site, text: str | bytes, kind: str) -> None:
    async with site[2].ws_connect("/v1/ws") as ws:
        await ws.receive_json()
        await (ws.send_str(text) if isinstance(text, str) else ws.send_bytes(text))
        event = await _until_event(ws, "error")
        assert event["data"]["type"] == f"urn:coinspace:problem:{kind}"
        await ws.send_json({"op": "ping"})
        await _until_event(ws, "pong")


async def test_a_websocket_that_sends_only_errors_is_closed(site: Site) -> None:
    async with site[2].ws_connect("/v1/ws") as ws:
        for _ in range(30):
            with contextlib.suppress(ConnectionError, RuntimeError):
                await ws.send_str("nonsense")
        async with asyncio.timeout(SOON_S):
            while not ws.closed:
                await ws.receive()
        assert ws.close_code == 1008
    async with site[2].ws_connect("/v1/ws") as ws:
        await ws.receive_json()
        await ws.send_str("x" * 100_000)
        async with asyncio.timeout(SOON_S):
            while not ws.closed:
                await ws.receive()
        assert ws.close_code == 1009


async def test_a_websocket_that_asks_without_end_is_limited_then_closed(site: Site) -> None:
    async with site[2].ws_connect("/v1/ws") as ws:
        await ws.receive_json()

        async def ask() -> None:
            with contextlib.suppress(ConnectionError, RuntimeError):
                while not ws.closed:
                    await ws.send_str('{"op":"ping"}')
                    await asyncio.sleep(0)

        asking = asyncio.create_task(ask())
        answers = []
        async with asyncio.timeout(SOON_S):
            while not ws.closed:
                received = await ws.receive()
                if received.type is aiohttp.WSMsgType.TEXT:
                    answers.append(orjson.loads(received.data))
            await asking
        assert ws.close_code == 1008
        names = [one["event"] for one in answers]
        assert names[: names.index("error")].count("pong") >= 50
        errors = [one["data"]["type"] for one in answers if one["event"] == "error"]
        assert set(errors) == {"urn:coinspace:problem:too-many-requests"}


def _never_reads(endpoint: Endpoint, path: str) -> socket.socket:
    client = socket.create_connection(("127.0.0.1", endpoint.server.port))
    client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    client.sendall(f"GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
    return client


async def test_a_client_that_never_reads_is_conflated_then_dropped(site: Site) -> None:
    stage, endpoint, session = site
    slow = _never_reads(endpoint, "/v1/stream?indices=*&platform=pipeline,venues")
    try:
        await until(lambda: len(endpoint.hub.clients) == 1)
        async with stream(session, "indices=BTC") as reader:
            await reader.next("index")
            # the other client reads all the time, with every event or the newest
            reading = asyncio.create_task(reader.value("424242.5"))
            number = 0
            async with asyncio.timeout(SOON_S):
                while endpoint.hub.dropped == 0:
                    number += 1
                    for asset in endpoint.settings.index.assets:
                        stage.publish_index(asset, number + 0.5, inputs={"x" * 500: InputRecord()})
                    await asyncio.sleep(0.01 if number % 40 == 0 else 0)
            assert endpoint.hub.conflated > 0
            assert endpoint.hub.dropped == 1
            stage.publish_index("BTC", 424242.5)
            await reading
            assert len(endpoint.hub.clients) == 1
    finally:
        slow.close()


async def test_five_hundred_closed_streams_leave_nothing_behind(site: Site) -> None:
    stage, endpoint, _ = site
    await asyncio.sleep(0.1)
    tasks, connections = len(asyncio.all_tasks()), endpoint.server.connections
    clients = []
    for number in range(500):
        path = "/v1/stream?indices=BTC&platform=venues"
        if number % 2:
            clients.append(_websocket(endpoint))
        else:
            clients.append(_never_reads(endpoint, path))
        if number % 50 == 0:
            await asyncio.sleep(0.01)
    await until(lambda: len(endpoint.hub.clients) == 500)
    for number in range(5):
        stage.publish_index("BTC", number + 0.5)
    await asyncio.sleep(0.2)
    for number, client in enumerate(clients):
        if number % 3 == 0:
            # a reset instead of an ordered close
            client.setsockopt(
                socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\x00\x00\x00\x00\x00\x00\x00"
            )
        client.close()
    await until(lambda: not endpoint.hub.clients)
    await until(lambda: len(asyncio.all_tasks()) <= tasks)
    await until(lambda: endpoint.server.connections <= connections)
    gc.collect()
    assert all(not channel.clients for channel in endpoint.hub.channels.values())
    assert endpoint.hub.left >= 500


async def test_five_hundred_streams_that_never_read_are_dropped_without_harm(
    site: Site,
) -> None:
    stage, endpoint, session = site
    # connections inherit it: otherwise the kernel would take megabytes for each
    endpoint.server.socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 16_384)
    clients = []
    for number in range(500):
        path = "/v1/stream?indices=BTC&platform=venues"
        clients.append(_websocket(endpoint) if number % 2 else _never_reads(endpoint, path))
        if number % 50 == 0:
            await asyncio.sleep(0.01)
    try:
        await until(lambda: len(endpoint.hub.clients) == 500)
        for client in clients[1::2]:
            client.sendall(_masked(b'{"op":"subscribe","channels":["index.BTC","venues"]}'))
        async with stream(session, "indices=BTC") as reader:
            number = 0
            # a client that reads receives every value and waits for none of the others
            async with asyncio.timeout(4 * SOON_S):
                while endpoint.hub.dropped < 500:
                    number += 1
                    stage.publish_index("BTC", number + 0.5, reason="x" * 20_000)
                    await reader.value(f"{number}.5")
            assert endpoint.hub.dropped == 500
            assert len(endpoint.hub.clients) == 1
    finally:
        for client in clients:
            client.close()


def _masked(text: bytes) -> bytes:
    """A client's text frame, masked with zeros."""
    return b"\x81" + bytes((0x80 | len(text),)) + b"\0\0\0\0" + text


def _websocket(endpoint: Endpoint) -> socket.socket:
    client = socket.create_connection(("127.0.0.1", endpoint.server.port))
    client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    client.sendall(
        b"GET /v1/ws HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
    )
    return client


async def test_no_more_streams_than_configured(tmp_path: Path) -> None:
    async with (
        running(settings(tmp_path, max_streams=1)) as (_, endpoint),
        aiohttp.ClientSession(endpoint.server.url) as session,
        stream(session, "indices=BTC"),
    ):
        async with session.get("/v1/stream?indices=BTC") as answer:
            assert answer.status == 503
            assert int(answer.headers["Retry-After"]) > 0
            assert orjson.loads(await answer.read())["type"].endswith("too-many-streams")
        with pytest.raises(aiohttp.WSServerHandshakeError):
            await session.ws_connect("/v1/ws")
