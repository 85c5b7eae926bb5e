"""Texts of a request: any text is a value or a refusal that names it."""

from __future__ import annotations

import base64
from collections.abc import Callable
from typing import Any
from urllib.parse import urlencode

import msgspec
import pytest
from blacksheep.messages import Request
from hypothesis import given, settings
from hypothesis import strategies as st

from coinspace.endpoint.history import bulk
from coinspace.endpoint.http.addresses import Proxies, group, is_loopback
from coinspace.endpoint.http.api import bind
from coinspace.endpoint.http.hosts import Hosts
from coinspace.endpoint.http.keys import Keys
from coinspace.endpoint.http.problem import Problem
from coinspace.endpoint.live.channels import StreamQuery
from coinspace.endpoint.routes import books, history, market, platform, premium
from coinspace.endpoint.values import (
    INT64_MAX,
    decode_cursor,
    encode_cursor,
)
from coinspace.instant import LATEST_MS, instant_ms

TEXT = st.text(max_size=60) | st.from_regex(r"[-+0-9.eE:TZ]{1,40}", fullmatch=True)
QUERIES: tuple[type[msgspec.Struct], ...] = (
    books.ConsolidatedQuery,
    books.BookQuery,
    books.BooksQuery,
    history.ValuesQuery,
    history.CandlesQuery,
    history.ExplainQuery,
    premium.PremiumQuery,
    premium.PremiumsQuery,
    premium.PremiumCandlesQuery,
    market.TickersQuery,
    market.TradesQuery,
    platform.GapsQuery,
    StreamQuery,
)


def refused(work: Callable[[], Any]) -> Any:
    """Return the result, None for a problem that a client can act on."""
    try:
        return work()
    except Problem as problem:
        found = problem
    assert 400 <= found.status < 500
    assert len(found.detail) < 1000
    assert found.body()
    return None


@given(TEXT)
def test_any_text_is_a_time_or_a_refusal(text: str) -> None:
    found: int | str
    try:
        found = instant_ms(text)
    except ValueError as error:
        found = str(error)
    if isinstance(found, str):
        assert "expected epoch milliseconds or ISO 8601" in found
    else:
        assert 0 <= found <= LATEST_MS


@given(TEXT | st.binary(max_size=40).map(lambda b: base64.urlsafe_b64encode(b).decode()))
def test_any_text_is_a_cursor_or_a_refusal(text: str) -> None:
    found = refused(lambda: decode_cursor(text, 2))
    assert found is None or all(0 <= one < INT64_MAX for one in found)


@given(st.lists(st.integers(0, INT64_MAX - 1), min_size=1, max_size=3))
def test_cursors_come_back(parts: list[int]) -> None:
    assert decode_cursor(encode_cursor(*parts), len(parts)) == parts


@pytest.mark.parametrize("kind", QUERIES)
@given(
    st.dictionaries(st.sampled_from(["start", "end", "limit", "at", "size", "levels"]), TEXT)
    | st.dictionaries(TEXT, TEXT, max_size=3),
    st.binary(max_size=60),
    st.booleans(),
)
@settings(max_examples=60)
def test_any_query_is_parameters_or_a_problem(
    kind: type[msgspec.Struct], given: dict[str, str], raw: bytes, encoded: bool
) -> None:
    scope: Any = {"query_string": urlencode(given).encode() if encoded else raw}
    request = Request("GET", b"/", [])
    request.scope = scope
    in_path = {"asset", "exchange", "base", "quote"}.intersection(kind.__struct_fields__)
    request.route_values = dict.fromkeys(in_path, "BTC")
    refused(lambda: bind(request, kind))


@given(st.text(st.characters(max_codepoint=255), max_size=80))
def test_any_accept_is_a_format_or_a_problem(text: str) -> None:
    request = Request("GET", b"/", [(b"accept", text.encode("latin-1"))])
    assert refused(lambda: bulk.accepted(request)) in (None, *bulk.FORMATS)


@given(st.text(st.characters(max_codepoint=255), max_size=80))
def test_any_host_is_known_or_a_problem(text: str) -> None:
    hosts = Hosts([], "127.0.0.1", any_name=False)
    scope = {
        "headers": [(b"host", text.encode("latin-1"))],
        "http_version": "1.1",
        "server": ("192.0.2.1", 80),
    }
    found = refused(lambda: hosts.check(scope))
    names = ("localhost", "127.0.0.1", "[::1]", "192.0.2.1")
    assert found is None or found.rpartition(":")[0].rstrip(".") in names or found in names


@given(st.text(max_size=80), st.lists(st.binary(max_size=40), max_size=3))
def test_any_address_is_counted_under_a_short_name(text: str, forwarded: list[bytes]) -> None:
    assert len(group(text)) <= 64
    assert isinstance(is_loopback(text), bool)
    assert isinstance(Proxies(["0.0.0.0/0"]).client("192.0.2.1", forwarded), str)


@given(st.text(max_size=100))
def test_any_text_is_no_key(text: str) -> None:
    keys = Keys.__new__(Keys)
    keys._keys, keys._checked = {}, float("inf")
    assert keys.find(text) is None


@pytest.mark.parametrize(
    ("kind", "given", "text"),
    [
        (history.CandlesQuery, {"interval": "2m"}, "interval: expected one of 1s, 1m, 5m, 1h, 1d"),
        (history.CandlesQuery, {"limit": "2000"}, "limit: expected a whole number up to 1000"),
        (history.CandlesQuery, {"limit": "0"}, "limit: expected a whole number from 1, was '0'"),
        (history.CandlesQuery, {"limit": "x"}, "limit: expected a whole number, was 'x'"),
        (platform.GapsQuery, {"kind": "x"}, "kind: expected one of orderbook, ticker, trade,"),
        (premium.PremiumQuery, {"size": "0"}, "size: expected a number above 0, was '0'"),
        (books.ConsolidatedQuery, {"within": "60"}, "within: expected a number up to 50, was '60'"),
        (history.ValuesQuery, {"start": "1767225600"}, "mean milliseconds, 1767225600000?"),
    ],
)
def test_a_refusal_uses_plain_words(
    kind: type[msgspec.Struct], given: dict[str, str], text: str
) -> None:
    query = {} if kind is platform.GapsQuery else {"asset": "BTC"}
    request = Request("GET", b"/", None)
    scope: Any = {"query_string": urlencode({**query, **given}).encode()}
    request.scope = scope
    with pytest.raises(Problem) as refused:
        bind(request, kind)
    assert text in refused.value.detail
    assert "`" not in refused.value.detail
