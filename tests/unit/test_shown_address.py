"""An address is shown without logins, keys and tokens, however they are written."""

from __future__ import annotations

import itertools
from urllib.parse import quote

import pytest

from coinspace.collector.tools import listing
from coinspace.config import Settings
from coinspace.errors import ConfigError, ConnectError, StorageError
from coinspace.storage.questdb.address import configured
from coinspace.storage.schema import connect
from coinspace.text import shown_address

SECRET = "hush"
PLACES = (
    "wss://stream.binance.com:9443",
    "wss://h:9443/ws/btcusdt",
    "https://h/v1/a.b",
    "ws://[::1]:8080/a",
    "tcp://127.0.0.1:5555",
    "tcp://*:5555",
    "tcp://127.0.0.1:*",
    "ipc:///run/coins/a.ipc",
    "postgresql://h:8812/qdb",
    "postgresql://a:1,b:2/qdb",
    "http::addr=h:9000;",
    "tcp::addr=[::1]:9009;",
    "host=h port=8812 dbname=qdb",
    "/srv/a@b=c",
    "fe80::1",
    "*/KRW",
    "",
)
# of a login, unencoded and encoded
LOGINS = (
    f"me:{SECRET}",
    f"{SECRET}",
    f":{SECRET}",
    f"{SECRET}:",
    f"me:{SECRET}:x",
    f"me:123/{SECRET}",
    f"me:{SECRET}/123",
    f"me:{SECRET}@x",
    f"me:x@{SECRET}",
    f"me:1?{SECRET}",
    f"me:{SECRET}?a=1",
    f"me:{SECRET}#1",
    f"me:1#{SECRET}",
    f"me:{SECRET} x",
    f"me:[{SECRET}]",
    f"me:%{SECRET}%zz",
    f"me:{SECRET}://x",
)
QUERIES = (
    f"?signature={SECRET}",
    f"?SIGNATURE={SECRET}",
    f"?a=1&b={SECRET}",
    f"?a={SECRET}&b=1",
    f"?a={SECRET};b={SECRET}",
    f"?{SECRET}",
    f"?a&{SECRET}",
    f"?%61={SECRET}",
    f"?a={SECRET}=x",
    f"?a=x={SECRET}",
    f"?a={SECRET}@x",
    f"?a=x@{SECRET}",
    f"?a=x?b={SECRET}",
    f"#{SECRET}",
    f"#a={SECRET}",
    f"?a=1#{SECRET}",
    f";token={SECRET}",
    f"?a= {SECRET}",
)


@pytest.mark.parametrize("text", PLACES)
def test_a_place_is_shown_as_it_is(text: str) -> None:
    assert shown_address(text) == text


@pytest.mark.parametrize("login", LOGINS)
@pytest.mark.parametrize(
    "scheme", ["https://", "WSS://", "postgresql://", "jdbc:postgresql://", ""]
)
def test_no_login_is_shown(scheme: str, login: str) -> None:
    if not scheme and "://" in login:
        return
    for place in ("h", "h:8812/qdb", "[::1]:8812/qdb", "h/a?b=c"):
        shown = shown_address(f"{scheme}{login}@{place}")
        assert SECRET not in shown
        assert "me" not in shown
        assert shown.startswith(scheme)
    encoded = f"{scheme}{quote(f'{login}@', safe='')}h"
    assert not scheme or SECRET not in shown_address(encoded)


@pytest.mark.parametrize("query", QUERIES)
@pytest.mark.parametrize("place", ["https://h", "WSS://h:1/x", "https://me:x@h:1/x/", "ws://[::1]"])
def test_no_value_of_a_query_is_shown(place: str, query: str) -> None:
    assert SECRET not in shown_address(place + query)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("https://me:x@h:1/a?b=1&c=2&d#e", "https://***@h:1/a?b=***&c=***&***#***"),
        ("https://h/a;b=1", "https://h/a***"),
        ("postgresql://me:hush", "postgresql://***"),
        (
            "http::addr=h:9000;username=u;password=a;;b=c d;tls_ca=/x;hush",
            "http::addr=h:9000;username=***;password=***;tls_ca=***;***",
        ),
        ("https::addr=me:hush@h:9000;token=a@b;", "https::addr=***;token=***;"),
        (
            "host=h Password = 'a b\\' port=1' user=u x=a b",
            "host=h Password = *** user=*** x=***",
        ),
    ],
)
def test_what_is_left_of_an_address(text: str, expected: str) -> None:
    assert shown_address(text) == expected


@pytest.mark.parametrize("login", LOGINS)
def test_no_mixture_of_parts_shows_the_secret(login: str) -> None:
    for query, place in itertools.product(QUERIES, ("h", "h:1/x", "[::1]:1")):
        assert SECRET not in shown_address(f"https://{login}@{place}{query}")
        assert SECRET not in shown_address(f"http::addr={place};token={query}{login};a=1")
        quoted = (login + query).replace("\\", "\\\\").replace("'", "\\'")
        assert SECRET not in shown_address(f"host={place} password='{quoted}' user=me")


@pytest.mark.parametrize("login", LOGINS)
def test_no_error_about_a_database_shows_its_login(login: str) -> None:
    sql = f"postgresql://{login}@127.0.0.1:1/qdb"
    with (
        pytest.raises((ConfigError, StorageError)) as caught,
        connect(configured("http::addr=127.0.0.1:1;", sql)),
    ):
        pass
    assert SECRET not in str(caught.value)


async def test_an_error_about_a_list_of_markets_shows_no_login() -> None:
    settings = Settings().exchanges["upbit"]
    settings = settings.model_copy(update={"rest": f"http://me:{SECRET}@127.0.0.1:1"})
    with pytest.raises(ConnectError) as caught:
        await listing.listed("upbit", settings)
    assert SECRET not in str(caught.value)
    assert "127.0.0.1:1" in str(caught.value)
