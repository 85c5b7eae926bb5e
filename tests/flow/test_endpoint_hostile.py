"""The answer to any request is a value or a problem, and never an error of the server.

Routes and parameters come from the document that the endpoint serves, so new ones are tried too.
"""

from __future__ import annotations

import base64
import http.client
import itertools
from collections.abc import Iterator
from typing import Any
from urllib.parse import quote, urlencode, urlsplit

import msgspec
import orjson
import pytest

from coinspace.config import Settings
from coinspace.endpoint.values import encode_cursor
from tests.flow.endpoint_stage import served

INT64_MAX = (1 << 63) - 1
LATEST_MS = 7_258_118_400_000
# each is tried for each parameter of any type
VALUES = [
    *("", " ", "*", ",", "BTC,BTC", "BTC/KRW", "upbit", " BTC", "null", "true", "[]", "{}"),
    *("0", "1", "-1", "00", "1000", "1001", "1e3", "1e999", "-1e999", "NaN", "inf", "0x10", "1_0"),
    *(str(INT64_MAX - 1), str(INT64_MAX), str(INT64_MAX + 1), "9" * 30, "9" * 3000),
    *(str(LATEST_MS), str(LATEST_MS + 1), "1796008736400", "1e-400", "0." + "0" * 400 + "1"),
    *("1970-01-01T00:00:00Z", "0001-01-01T00:00:00Z", "9999-12-31T23:59:59Z"),
    *("2200-01-01T00:00:00+24:00", "2026-02-30T00:00:00Z", "2026-01-01", "2026-W01-1T00:00:00Z"),
    *("\x00", "\n", "\r\nX: y", "\x1b[31m", "\u202e", "é", "😀", "²", "٣", "\ufeff", "\ufffe"),
    *("' OR '1'='1", "%", "%s", "%(x)s", "\\", "../../x", "a" * 41, "a" * 4000, "," * 2000),
]
TEXTS = ["", "*", "é", '"', ",,,", "a" * 5000, "*/*;q=nan", "text/csv;q=1e999,*/*", "x-²", "\\"]
METHODS = ("HEAD", "POST", "PUT", "DELETE", "PATCH", "OPTIONS", "TRACE", "PROPFIND")
# the database may lack data: documented, and not a server error
FINE = {200, 304, 400, 401, 403, 404, 405, 406, 408, 413, 414, 421, 426, 431, 503}
NAMES = {"asset": "BTC", "exchange": "upbit", "base": "BTC", "quote": "KRW"}


def cursors() -> Iterator[str]:
    """Return cursors of the right form with extreme numbers, and of other forms."""
    edges = (0, 1, 1_796_008_736_400_000_000, INT64_MAX - 1, INT64_MAX)
    for length in (1, 2, 3):
        for parts in itertools.product(edges, repeat=length):
            yield encode_cursor(*parts)
    odd: Any
    for odd in (["a"], [-1], [1 << 63], [True], [1.5], list(range(50)), {}, None, [[0]]):
        yield base64.urlsafe_b64encode(msgspec.msgpack.encode(odd)).decode().rstrip("=")
    yield from ("=", "A", "AAAA", "!!!!", "é", "A" * 201)


class Asker:
    """Sends requests over one kept connection, and checks the form of each answer."""

    def __init__(self, url: str) -> None:
        self._host = urlsplit(url).netloc
        self._connection = http.client.HTTPConnection(self._host, timeout=60)
        self.statuses: dict[int, int] = {}

    def ask(self, target: str, method: str = "GET", body: Any = None, **headers: str) -> int:
        given = {name.replace("_", "-"): text.encode() for name, text in headers.items()}
        try:
            self._connection.request(method, target, body=body, headers=given)
            answer = self._connection.getresponse()
        except http.client.HTTPException as error:
            raise AssertionError(f"{method} {target[:200]}: {error!r}") from error
        kind = answer.headers.get("Content-Type", "")
        if kind == "text/event-stream":
            self.close()
        else:
            data = answer.read()
            where = f"{method} {target[:200]}: {answer.status} {data[:300]!r}"
            assert answer.status in FINE, where
            if answer.status >= 400:
                assert kind == "application/problem+json", where
                assert method == "HEAD" or orjson.loads(data)["status"] == answer.status, where
        self.statuses[answer.status] = self.statuses.get(answer.status, 0) + 1
        return answer.status

    def close(self) -> None:
        self._connection.close()


@pytest.fixture(scope="module")
def url(questdb: Settings, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with served(tmp_path_factory.mktemp("hostile"), questdb=questdb) as found:
        yield found


@pytest.fixture
def asker(url: str) -> Iterator[Asker]:
    asker = Asker(url)
    yield asker
    asker.close()


@pytest.fixture(scope="module")
def routes(url: str) -> dict[str, list[dict[str, Any]]]:
    """Parameters of each route."""
    connection = http.client.HTTPConnection(urlsplit(url).netloc, timeout=60)
    connection.request("GET", "/openapi.json")
    paths = orjson.loads(connection.getresponse().read())["paths"]
    connection.close()
    return {path: item["get"]["parameters"] for path, item in paths.items()}


def good(path: str) -> str:
    return path.format(**NAMES)


def test_edges_of_every_parameter(asker: Asker, routes: dict[str, list[dict[str, Any]]]) -> None:
    for path, parameters in routes.items():
        for parameter in parameters:
            for value in VALUES:
                name = parameter["name"]
                if parameter["in"] == "path":
                    asker.ask(path.format(**{**NAMES, name: quote(value, safe="")}))
                elif parameter["in"] == "query":
                    asker.ask(f"{good(path)}?{urlencode({name: value})}")
    assert asker.statuses[200] > 20
    assert asker.statuses[400] > 1000


def test_edges_of_cursors(asker: Asker, routes: dict[str, list[dict[str, Any]]]) -> None:
    ranges = (
        "",
        "&start=0&end=1",
        "&start=1796008000000",
        "&start=7258000000000&end=7258118400000",
    )
    tried = [path for path, one in routes.items() if any(p["name"] == "cursor" for p in one)]
    assert len(tried) == 8
    for path, cursor, span in itertools.product(tried, cursors(), ranges):
        asker.ask(f"{good(path)}?{urlencode({'cursor': cursor})}{span}")


def test_edges_of_headers(asker: Asker, routes: dict[str, list[dict[str, Any]]]) -> None:
    for path, text in itertools.product([*routes, "/", "/docs", "/openapi.json"], TEXTS):
        target = good(path) + ("?indices=BTC" if path == "/v1/stream" else "")
        for name in ("Accept", "If_None_Match", "Last_Event_ID", "Range", "Authorization"):
            asker.ask(target, **{name: text})


def test_every_method_with_and_without_a_body(
    asker: Asker, routes: dict[str, list[dict[str, Any]]]
) -> None:
    for path in [*routes, "/", "/nowhere", "/assets/a/b"]:
        target = good(path) + ("?indices=BTC" if path == "/v1/stream" else "")
        for method in METHODS:
            assert asker.ask(target, method) in (200, 404, 405, 426, 503)
            asker.ask(target, method, body=b"{}", Content_Type="application/json")
        asker.ask(target, "GET", body=b"{}")
        asker.ask(target, "GET", body=iter([b"a", b"b"]), Content_Encoding="gzip")


def test_forms_of_queries(asker: Asker, routes: dict[str, list[dict[str, Any]]]) -> None:
    forms = ["?", "&&", "=", "a", "%", "%zz", "%ff", "limit=1&limit=2", "x=1", "a=1;b=2", "?a=1"]
    forms += ("%ed%a0%80=1", "a=%00", "&".join(f"a{n}=1" for n in range(400)), "a" * 5000)
    for path, form in itertools.product(routes, forms):
        status = asker.ask(f"{good(path)}?{form}")
        assert status in (400, 404), (path, form)


@pytest.mark.parametrize("length", [255, 256, 5000, 8000])
@pytest.mark.parametrize("letter", ["a", "%C3%A9", "%F0%9F%98%80", "."])
def test_names_of_any_length(asker: Asker, letter: str, length: int) -> None:
    name = (letter * length)[: 8000 // 12 * 12]
    for target in (f"/assets/{name}/x", f"/assets/a/{name}", f"/{name}", f"/v1/indices/{name}"):
        assert asker.ask(target) in (400, 404, 414)
