"""The Python client and `coinspace query` against a real endpoint."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from coinspace.cli import coinspace
from coinspace.client import ApiError, AsyncClient, Client, ConnectionLost
from coinspace.client.events import EventParser
from coinspace.endpoint.worker import Endpoint
from coinspace.errors import EndpointError
from tests.flow.endpoint_stage import Stage, running, settings


@contextlib.contextmanager
def served(folder: Path, **more: Any) -> Iterator[str]:
    """An endpoint on a loop in a thread of its own, publishing on, for synchronous code."""
    ready, stop = threading.Event(), threading.Event()
    found: list[str] = []

    async def serve() -> None:
        async with running(settings(folder, **more)) as (stage, endpoint):
            found.append(endpoint.server.url)
            ready.set()
            number = 0
            while not stop.is_set():
                number += 1
                stage.publish_index("BTC", 1000.0 + number)
                await asyncio.sleep(0.05)

    thread = threading.Thread(target=asyncio.run, args=(serve(),))
    thread.start()
    try:
        assert ready.wait(30)
        yield found[0]
    finally:
        stop.set()
        thread.join(30)


def test_synchronous_client(tmp_path: Path) -> None:
    with served(tmp_path) as url, Client(url) as client:
        assert client.index("BTC")["asset"] == "BTC"
        assert len(client.indices()) == 4
        with pytest.raises(ApiError) as refused:
            client.index("DOGE")
        assert (refused.value.status, refused.value.kind) == (404, "unknown-asset")
        events = client.stream(indices=["BTC"])
        values = [next(events).data["value"] for _ in range(5)]
        assert len(set(values)) == 5
        events.close()  # type: ignore[attr-defined]
    with Client(url, timeout_s=2) as gone, pytest.raises(ConnectionLost):
        gone.index("BTC")


async def test_stream_goes_on_when_the_endpoint_restarts(tmp_path: Path) -> None:
    chosen = settings(tmp_path)
    stage = Stage(chosen)
    first = Endpoint(chosen)
    await first.start()
    second = None
    try:
        await stage.heard_by(first)
        async with AsyncClient(first.server.url) as client:
            events = client.stream(indices=["BTC"])
            assert (await anext(events)).name == "index"
            chosen.endpoint.port = first.server.port
            reading = asyncio.create_task(_until_gap(events))
            await asyncio.sleep(0.05)
            await first.stop()
            second = Endpoint(chosen)
            await second.start()
            async with asyncio.timeout(15):
                while not reading.done():
                    stage.publish_index("BTC", 555.5)
                    await asyncio.wait([reading], timeout=0.1)
            names = reading.result()
            assert names[0] == "shutdown"
            assert names[-2:] == ["gap", "index"]
            await events.aclose()  # type: ignore[attr-defined]
    finally:
        if second is not None:
            await second.stop()
        stage.close()


async def _until_gap(events: Any) -> list[str]:
    names: list[str] = []
    async for event in events:
        names.append(event.name)
        if names[-2:] == ["gap", "index"]:
            return names
    return names


def test_events_come_out_whole_however_the_bytes_are_cut() -> None:
    data = (
        b'retry: 250\n\nid: a-1\nevent: index\ndata: {"v":1}\n\n: note\n\nevent: gap\ndata: {}\n\n'
    )
    for size in (1, 2, 3, 7, len(data)):
        parser = EventParser()
        found = [
            event
            for start in range(0, len(data), size)
            for event in parser.feed(data[start : start + size])
        ]
        assert [(one.name, one.id, one.data) for one in found] == [
            ("index", "a-1", {"v": 1}),
            ("gap", "", {}),
        ]
        assert parser.retry_s == 0.25


def test_times_need_a_zone() -> None:
    with Client("http://127.0.0.1:1") as client:
        with pytest.raises(ValueError, match="with a zone"):
            client.values("BTC", start=datetime(2026, 1, 1))
        with pytest.raises(ConnectionLost):
            client.values("BTC", start=datetime(2026, 1, 1, tzinfo=UTC))


def test_query_prints_tables_and_json(tmp_path: Path) -> None:
    run = CliRunner()
    with served(tmp_path) as url:
        table = run.invoke(coinspace, ["query", "index", "BTC", "--url", url])
        assert table.exit_code == 0, table.output
        assert "upbit:BTC/KRW" in table.output
        plain = run.invoke(coinspace, ["query", "indices", "--json", "--url", url])
        assert '"asset": "ETH"' in plain.output
        for arguments, text in (
            (["index"], "expected an asset"),
            (["venues", "BTC"], "expected no subject"),
            (["index", "BTC", "--levels", "5"], "no option --levels"),
            (["values", "BTC", "--start", "yesterday"], "--start: expected epoch"),
            (["venues", "--format", "parquet"], "expected table or json"),
        ):
            failed = run.invoke(coinspace, ["query", *arguments, "--url", url])
            assert isinstance(failed.exception, EndpointError)
            assert text in str(failed.exception)
        refused = run.invoke(coinspace, ["query", "index", "DOGE", "--url", url])
        assert isinstance(refused.exception, ApiError)
