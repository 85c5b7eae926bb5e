"""The places of downloads: a client waits for a place, and every end frees it."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from blacksheep.messages import Request

from coinspace.endpoint.history import bulk
from coinspace.endpoint.history.bulk import Downloads
from coinspace.endpoint.http.problem import Problem


def request() -> Request:
    scope: Any = {"type": "http"}
    made = Request("GET", b"/", [])
    made.scope = scope
    return made


async def test_downloads_wait_for_a_place_and_give_it_back(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(bulk, "WAIT_S", 0.05)
    downloads = Downloads(1, 60)
    ended = asyncio.Event()

    async def download() -> None:
        await downloads.begin(request())
        await ended.wait()

    first = asyncio.ensure_future(download())
    await asyncio.sleep(0)
    with pytest.raises(Problem) as refused:
        await asyncio.ensure_future(download())
    assert (refused.value.status, refused.value.name) == (503, "too-many-downloads")
    assert int(refused.value.headers["Retry-After"]) > 0
    # however a request ends, its place is free again
    first.cancel()
    await asyncio.wait([first])
    ended.set()
    await asyncio.ensure_future(download())
    await asyncio.ensure_future(download())
