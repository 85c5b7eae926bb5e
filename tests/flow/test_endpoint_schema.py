"""Schemathesis over the whole OpenAPI document: nothing undocumented, no internal error."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Iterator
from typing import Any

import hypothesis
import hypothesis.errors
import pytest
import requests
import schemathesis
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from coinspace.config import Settings, StorageSettings
from coinspace.storage import schema as tables
from coinspace.storage.questdb.address import address
from tests.flow.endpoint_stage import running, settings

CHECKS = (
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
)
# a bounded number of requests to each route, the same every time
EXAMPLES = 12


@pytest.fixture(scope="module")
def url(questdb: Settings, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    found = address(questdb)
    tables.create(found, StorageSettings(ttl="off"))
    chosen = settings(tmp_path_factory.mktemp("schema"))
    chosen.storage.ilp, chosen.storage.sql = found.ilp, found.readonly_sql
    ready, stop = threading.Event(), threading.Event()
    urls: list[str] = []

    async def serve() -> None:
        async with running(chosen) as (stage, endpoint):
            urls.append(endpoint.server.url)
            ready.set()
            while not stop.is_set():
                stage.publish_all()
                await asyncio.sleep(0.1)

    thread = threading.Thread(target=asyncio.run, args=(serve(),))
    thread.start()
    try:
        assert ready.wait(60)
        yield urls[0]
    finally:
        stop.set()
        thread.join(60)


def test_every_route_answers_as_documented(url: str) -> None:
    api = schemathesis.openapi.from_url(f"{url}/openapi.json")
    seen: dict[str, set[int]] = {}
    for result in api.get_all_operations():
        operation: Any = result.ok()  # type: ignore[union-attr]
        statuses = seen.setdefault(operation.path, set())
        _try(_strategy(operation, schemathesis.GenerationMode.POSITIVE), url, statuses)
        # where any text is a valid value, no bad value can be generated
        with contextlib.suppress(hypothesis.errors.Unsatisfiable):
            _try(_strategy(operation, schemathesis.GenerationMode.NEGATIVE), url, statuses)
    # no generated text names an asset, so valid streams are named here
    for query in ({"indices": "*"}, {"books": "BTC", "platform": "venues,gaps,pipeline"}):
        case = api["/v1/stream"]["GET"].Case(query=query)
        assert _streams(case, url, seen["/v1/stream"]), query
    assert set(seen) == set(api.raw_schema["paths"])
    # both good and bad input were really tried
    assert 200 in seen["/v1/indices/{asset}"] | seen["/v1/venues"]
    assert 400 in seen["/v1/indices/{asset}/ohlc"]
    assert {200, 400} <= seen["/v1/stream"]


def _strategy(operation: Any, mode: Any) -> Any:
    return operation.as_strategy(generation_mode=mode)


def _streams(case: Any, url: str, statuses: set[int]) -> bool:
    """Return whether the answer was an endless one, which is left after its first line."""
    request = case.as_transport_kwargs(base_url=url)
    with requests.request(**request, stream=True, timeout=60) as response:
        if response.status_code != 200:
            return False
        statuses.add(200)
        assert response.headers["Content-Type"] == "text/event-stream"
        assert next(response.iter_lines()).startswith(b"retry: ")
        return True


def _try(strategy: Any, url: str, statuses: set[int]) -> None:
    @hypothesis.given(strategy)
    @hypothesis.settings(
        max_examples=EXAMPLES,
        derandomize=True,
        database=None,
        suppress_health_check=list(hypothesis.HealthCheck),
    )
    def check(case: Any) -> None:
        if case.path == "/v1/stream" and _streams(case, url, statuses):
            return
        response = case.call(base_url=url)
        statuses.add(response.status_code)
        # 503 means that the database is missing: documented, and not a server error
        assert response.status_code not in (500, 501, 502, 504), response.text
        case.validate_response(response, checks=list(CHECKS))

    check()
