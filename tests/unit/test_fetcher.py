"""REST against a server on loopback: after any answer, requests continue and cost little."""

import asyncio
import contextlib
import gzip
import json
import time
import tracemalloc
import zlib
from collections.abc import Awaitable, Callable
from typing import Any, get_args

import pytest
from aiohttp import web

from coinspace._ext.sink import ListSink
from coinspace.clock import SECOND_NS, monotonic_ns
from coinspace.collector.fetcher import ANSWER_BYTES, ANSWER_PARTS, QUEUE_LIMIT, Fetcher, inflate
from coinspace.collector.limits import Budget
from coinspace.collector.markets import MarketList
from coinspace.collector.orderbook import OrderBookStage
from coinspace.collector.ticker import TickerStage
from coinspace.errors import UNREADABLE
from coinspace.exchanges import exchange
from coinspace.exchanges.exchange import (
    Limit,
    Listing,
    Purpose,
    Refusal,
    Request,
    block_s,
)
from coinspace.market import Market
from tests.waiting import until

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
FAST = {"weight": Limit(100_000, 1.0)}


def request(number: int = 0) -> Request:
    return Request("snapshot", f"/depth?n={number}", "weight", 1, (f"S{number}",))


class World:
    """A fetcher with what it reported."""

    def __init__(self, fetcher_of: Callable[..., Fetcher]) -> None:
        self.answers: list[bytes] = []
        self.refusals: list[Refusal] = []
        self.least_s = self.most_s = 0.0
        self.fetcher = fetcher_of(self.answer, self.refuse)

    def answer(self, request: Request, payload: bytes, now_ns: int) -> None:
        self.answers.append(payload)

    def refuse(self, request: Request, refusal: Refusal, now_ns: int) -> None:
        self.refusals.append(refusal)

    async def until(self, outcomes: int) -> None:
        await until(lambda: len(self.answers) + len(self.refusals) >= outcomes)


def serve(
    handler: Handler,
    act: Callable[[World], Awaitable[None]],
    name: str = "binance",
    limits: dict[str, Limit] | None = None,
) -> World:
    """Run a server and a fetcher against it."""

    async def main() -> World:
        app = web.Application()
        app.router.add_get("/{tail:.*}", handler)
        runner = web.AppRunner(app, access_log=None)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        port = runner.addresses[0][1]
        world = World(
            lambda answer, refuse: Fetcher(
                exchange(name), f"http://127.0.0.1:{port}", answer, refuse, limits=limits or FAST
            )
        )
        try:
            await act(world)
        finally:
            await world.fetcher.close()
            await runner.cleanup()
        return world

    return asyncio.run(main())


def body(payload: bytes, encoding: str = "", status: int = 200, **more: str) -> Handler:
    async def handler(_: web.Request) -> web.Response:
        headers = dict(more)
        if encoding:
            headers["Content-Encoding"] = encoding
        return web.Response(body=payload, status=status, headers=headers)

    return handler


async def blocked(world: World) -> None:
    """Make one request that is refused, and note for how long the others are stopped."""
    begin_ns = monotonic_ns()
    world.fetcher.submit(request())
    await world.until(1)
    window = world.fetcher._windows["weight"]
    world.least_s = (window._blocked_ns - monotonic_ns()) / SECOND_NS
    world.most_s = (window._blocked_ns - begin_ns) / SECOND_NS


async def three(world: World) -> None:
    for number in range(3):
        world.fetcher.submit(request(number))
    await world.until(3)


@pytest.mark.parametrize("failing", ["answer", "refused", "recorder"])
def test_an_error_while_an_answer_is_taken_ends_nothing(failing: str) -> None:
    calls = 0

    def fail(*_: Any) -> None:
        nonlocal calls
        calls += 1
        raise RuntimeError("not expected")

    async def act(world: World) -> None:
        if failing == "answer":
            world.fetcher._on_answer = fail
        elif failing == "refused":
            world.fetcher._on_refused = fail
        else:
            world.fetcher.recorder = fail
        for number in range(10):
            world.fetcher.submit(request(number))
        await until(lambda: calls == 10)
        world.fetcher.submit(request(11))
        await until(lambda: calls == 11)

    world = serve(body(b"{}", status=400 if failing == "refused" else 200), act)
    assert world.fetcher.counts["rest_errors"] == 11
    # the stage that failed on an answer gets a refusal
    assert len(world.refusals) == (11 if failing == "answer" else 0)


def test_a_request_that_waits_is_not_made_twice_and_the_queue_is_bounded() -> None:
    asked: list[str] = []

    async def handler(got: web.Request) -> web.Response:
        asked.append(got.query["n"])
        return web.Response(body=b"{}")

    async def act(world: World) -> None:
        for _ in range(3):
            for number in range(10):
                world.fetcher.submit(request(number))
        await world.until(10)
        for number in range(2 * QUEUE_LIMIT):
            world.fetcher.submit(request(100 + number))
        await world.until(10 + 2 * QUEUE_LIMIT)

    world = serve(handler, act)
    assert sorted(asked[:10], key=int) == [str(number) for number in range(10)]
    assert world.fetcher.counts["rest_repeated"] == 20
    assert world.fetcher.counts["rest_dropped"] == len(world.refusals) > 0
    assert len(asked) == len(set(asked))


@pytest.mark.parametrize("encoding", ["", "gzip", "deflate"])
def test_compressed_answers_are_read(encoding: str) -> None:
    content = json.dumps({"lastUpdateId": 5, "bids": [], "asks": []}).encode()
    packed = {"": content, "gzip": gzip.compress(content), "deflate": zlib.compress(content)}
    world = serve(body(packed[encoding], encoding), three)
    assert world.answers == [content] * 3


def test_an_answer_that_inflates_without_end_stops_at_its_bound() -> None:
    bomb = gzip.compress(b"0" * (256 << 20), 9)

    async def act(world: World) -> None:
        tracemalloc.start()
        await three(world)

    world = serve(body(bomb, "gzip"), act)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert world.fetcher.counts["rest_oversized"] == len(world.refusals) == 3
    assert peak < 12 * ANSWER_BYTES["snapshot"]
    assert "more than" in world.refusals[0].text


def test_a_plain_answer_without_end_is_refused() -> None:
    async def handler(got: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(got)
        try:
            for _ in range(4096):
                await response.write(b"[" * 65_536)
        except ConnectionError:
            pass
        return response

    world = serve(handler, three)
    assert world.fetcher.counts["rest_oversized"] == 3


def test_answers_of_each_purpose_have_bounds() -> None:
    assert set(get_args(Purpose)) == set(ANSWER_BYTES) == set(ANSWER_PARTS)


def test_an_answer_of_more_lists_and_objects_than_any_is_refused() -> None:
    # 4 MB of them would take 400 MB and hold the loop for a second
    dense = b"[" + b",".join([b'{"a":[]}'] * (ANSWER_PARTS["snapshot"] // 2)) + b"]"
    world = serve(body(dense, "identity"), three)
    assert world.fetcher.counts["rest_oversized"] == len(world.refusals) == 3
    assert "lists and objects" in world.refusals[0].text


@pytest.mark.parametrize(
    "part",
    [
        b"HTTP/1.1 100 Continue\r\n\r\n",
        b"HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n",
        b"1\r\n \r\n",
    ],
    ids=["100", "103", "chunks"],
)
def test_small_parts_without_end_do_not_hold_the_loop(part: bytes) -> None:
    """Each of them costs as much as kilobytes of content."""
    spent: list[float] = []

    async def serve_parts(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        if part.startswith(b"1"):
            writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
        with contextlib.suppress(ConnectionError):
            while True:
                writer.write(part * 10_000)
                await writer.drain()

    async def main() -> list[Refusal]:
        refusals: list[Refusal] = []
        server = await asyncio.start_server(serve_parts, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        fetcher = Fetcher(
            exchange("binance"),
            f"http://127.0.0.1:{port}",
            on_refused=lambda request, refusal, now_ns: refusals.append(refusal),
            limits=FAST,
        )
        fetcher.submit(request())
        last = time.thread_time()
        while not refusals:
            await asyncio.sleep(0.001)
            now = time.thread_time()
            spent.append(now - last)
            last = now
        await fetcher.close()
        server.close()
        return refusals

    (refusal,) = asyncio.run(main())
    assert "disconnected" in refusal.text or "not completed" in refusal.text
    assert sum(spent) < 1


def test_inflating_stops_at_its_bound_and_names_the_fault() -> None:
    with pytest.raises(ValueError, match="gzip or deflate"):
        inflate(b"x", "br", 10)
    with pytest.raises(ValueError, match="cut short"):
        inflate(gzip.compress(b"a" * 100)[:-9], "gzip", 1000)
    with pytest.raises(zlib.error):
        inflate(b"no gzip at all", "gzip", 1000)
    assert inflate(zlib.compress(b"abc")[2:-4], "deflate", 10) == b"abc"


@pytest.mark.parametrize(
    ("retry_after", "seconds"),
    [("3", 3), ("259200", 259_200), ("inf", 10), ("nan", 10), ("-5", 10), ("1e300", 10), ("", 10)],
)
def test_any_retry_after_is_a_bounded_wait(retry_after: str, seconds: float) -> None:
    world = serve(body(b"{}", status=429, **{"Retry-After": retry_after}), blocked)
    assert world.least_s <= seconds <= world.most_s
    assert not world.refusals[0].fatal


@pytest.mark.parametrize(
    ("name", "status", "text", "country"),
    [
        ("binance", 451, b"", True),
        ("binance", 403, b"<html>configured to block access from your country.</html>", True),
        (
            "binance",
            403,
            b'{"code":0,"msg":"Service unavailable from a restricted location"}',
            True,
        ),
        ("binance", 403, b"<html>Request blocked.</html>", False),
        ("binance", 404, b"no such country", False),
        ("upbit", 451, b"", True),
    ],
)
def test_a_refusal_for_the_country_is_no_fault_of_the_market_and_names_the_mirrors(
    name: str, status: int, text: bytes, country: bool
) -> None:
    module = exchange(name)
    group = next(iter(module.REST_LIMITS))

    async def one(world: World) -> None:
        world.fetcher.submit(Request("snapshot", "/depth", group, 1, ("S",)))
        await world.until(1)

    (refusal,) = serve(body(text, status=status), one, name, module.REST_LIMITS).refusals
    assert ("refused for its country" in refusal.text) == country
    assert ("data-api.binance.vision" in refusal.text) == (country and name == "binance")
    if country:
        assert not refusal.fatal
        assert len(refusal.text) < 200


def test_binance_is_asked_for_times_in_microseconds() -> None:
    asked: list[str] = []

    async def handler(request: web.Request) -> web.Response:
        asked.append(request.headers.get("X-MBX-TIME-UNIT", ""))
        return web.Response(body=b"[]")

    async def one(world: World) -> None:
        world.fetcher.submit(request())
        await world.until(1)

    serve(handler, one)
    assert asked == ["MICROSECOND"]
    row = {"id": 1, "price": "1", "qty": "1", "isBuyerMaker": True}
    trades = Request("trades", "", "weight", 25, ("BTCUSDT",))
    for at in (1_790_000_000_123, 1_790_000_000_123_456):
        (trade,) = exchange("binance").read_trades(
            trades, json.dumps([row | {"time": at}]).encode()
        )
        assert str(trade.exchange_ns).startswith(str(at))
        assert len(str(trade.exchange_ns)) == 19


def test_a_redirect_is_refused_and_not_followed() -> None:
    asked = 0

    async def handler(got: web.Request) -> web.Response:
        nonlocal asked
        asked += 1
        return web.Response(status=302, headers={"Location": "/elsewhere"})

    world = serve(handler, three)
    assert asked == 3
    assert {refusal.fatal for refusal in world.refusals} == {False}


def test_a_text_of_an_exchange_becomes_one_printable_line() -> None:
    said = json.dumps({"code": 1, "msg": "\x1b[31mRED\n[/x]\u202e" + "a" * 100_000}).encode()
    world = serve(body(said, status=400), three)
    text = world.refusals[0].text
    assert text.isprintable()
    assert len(text) < 300


ODD = [
    b"",
    b"null",
    b"1",
    b'"x"',
    b"[]",
    b"{}",
    b"[null]",
    b"[1]",
    b"[[]]",
    b'{"symbols":null}',
    b'{"symbols":[null]}',
    b'{"symbols":[{"symbol":["x"],"baseAsset":"A","quoteAsset":"B","status":5}]}',
    b'{"lastUpdateId":null,"bids":null,"asks":null}',
    b'{"lastUpdateId":1e30,"bids":[["1","1"]],"asks":[["2","1"]]}',
    b'{"lastUpdateId":10000000000000000000000000,"bids":[["1","1"]],"asks":[["2","1"]]}',
    b'{"lastUpdateId":5,"bids":[["nan","1"]],"asks":[["inf","1"]]}',
    b'{"lastUpdateId":5,"bids":[[{},"1"]],"asks":[[]]}',
    b'[{"market":1}]',
    b'[{"market":"KRW-BTC","market_event":null}]',
    b'[{"market":"KRW-BTC","timestamp":"x","orderbook_units":[]}]',
    b'[{"market":"KRW-BTC","timestamp":1,"orderbook_units":[{"ask_price":"1","ask_size":"1"}]}]',
    b'[{"market":["KRW-BTC"],"timestamp":1,"orderbook_units":null}]',
    b'[{"id":10000000000000000000000000,"time":1,"price":"1","qty":"1","isBuyerMaker":true}]',
    b'[{"id":"x","time":null,"price":"nan","qty":"inf","isBuyerMaker":5}]',
    b"<html>maintenance</html>",
    b'{"error":"maintenance"}',
    b'{"error":{"name":404,"message":"Code not found"}}',
    b"\xff\xfe\x00",
]


@pytest.mark.parametrize("name", ["binance", "upbit", "bithumb"])
@pytest.mark.parametrize("payload", ODD)
def test_an_answer_of_an_unknown_form_is_counted_and_refused(name: str, payload: bytes) -> None:
    spelled = exchange(name)
    symbol, market = ("BTCUSDT", "BTC/USDT") if name == "binance" else ("KRW-BTC", "BTC/KRW")
    now = 1_790_000_000 * SECOND_NS
    books = OrderBookStage(spelled, [(symbol, market)], ListSink(), depth=15)
    trades = TickerStage(spelled, [(symbol, market)], ListSink())
    if spelled.refusal_of_answer(200, payload) is not None:
        return
    for stage in (books, trades):
        stage.on_connected(1, (symbol,), now)
    requests = [*spelled.compare_requests([symbol]), spelled.snapshot_request(symbol, 100)]
    for asked in requests:
        books.on_answer(asked, payload, now)
    trades.on_answer(spelled.trades_request(symbol), payload, now)
    # no part of the answer is published
    assert books.counts["snapshots"] == books.markets[0].published == 0
    assert trades.counters()["trades"] == 0
    with contextlib.suppress(*UNREADABLE):
        for listing in spelled.read_markets(payload):
            assert isinstance(listing.symbol, str)


def test_levels_of_rest_may_have_a_third_element() -> None:
    payload = b'{"lastUpdateId":5,"bids":[["1.5","2",[]]],"asks":[["2.5","3",[]]]}'
    (book,) = exchange("binance").read_books(Request("compare", "", "", 0, ("A",)), payload)
    assert (book.bids, book.asks) == ([(1.5, 2.0)], [(2.5, 3.0)])


def test_a_list_of_markets_without_end_is_refused() -> None:
    listing = Listing("X", Market("BTC", "USDT"), True)
    with pytest.raises(ValueError, match="expected 1 to"):
        MarketList().update([listing] * 20_001)


NOW_S = 1_790_000_000.0


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        (
            "Way too much request weight used; IP banned until 1790000600000. Please use WebSocket"
            " Streams for live updates to avoid bans.",
            600,
        ),
        ("IP banned until 1790000600000", 600),
        ("banned until 1790000060", 60),
        ("Banned until: 2026-09-21T14:14:20Z", 60),
        ("blocked until '2026-09-21T23:14:20+09:00'", 60),
        ("This IP is blocked for 30 seconds.", 30),
        ("blocked for 5 minutes", 300),
        ("retry in 1 h", 3600),
        ("10분 동안 차단됩니다", 600),
        ("30초 후", 30),
        # a time that is over, and texts without a time
        ("banned until 1789999999999", 0),
        ("banned until 2026-99-21T14:14:20Z", 0),
        ("banned until 17900006000001", 0),
        ("until tomorrow", 0),
        ("Too many API requests.", 0),
        ("1000 requests", 0),
        ("5 servers", 0),
        ("", 0),
        ("until " * 100_000, 0),
        ("9" * 1_000_000 + " s", 0),
    ],
)
def test_a_refusal_says_how_long_it_lasts(text: str, seconds: float) -> None:
    body = json.dumps({"code": -1003, "msg": text}, ensure_ascii=False).encode()
    assert block_s(body, NOW_S) == pytest.approx(seconds)


# times of the exchange are judged by its own clock: the clock of this host is years off
DATE = "Mon, 21 Sep 2026 14:13:20 GMT"


@pytest.mark.parametrize("status", [418, 429])
@pytest.mark.parametrize("header", ["7", None, "0", "-5", "nan", "never", "1e12"])
@pytest.mark.parametrize("text", ["IP banned until 1790000090000.", "x", "until 9999999999999"])
def test_a_block_lasts_as_long_as_header_or_body_say(
    status: int, header: str | None, text: str
) -> None:
    headers = {"Date": DATE} | ({"Retry-After": header} if header else {})
    payload = json.dumps({"code": -1003, "msg": text}).encode()

    world = serve(body(payload, status=status, **headers), blocked)
    expected = 7 if header == "7" else 90 if "1790" in text else 120 if status == 418 else 10
    assert world.least_s <= expected <= world.most_s


def test_a_budget_counts_the_use_by_other_programs() -> None:
    budget = Budget(5400)
    # nothing is known yet
    assert budget.wait_ns(0, 250) == 0
    budget.report(100, 0, 30.0)
    assert budget.wait_ns(1, 250) == 0
    # another program of this address
    budget.report(5000, SECOND_NS, 29.0)
    assert budget.wait_ns(SECOND_NS, 250) == 0
    budget.take(250)
    assert budget.wait_ns(SECOND_NS, 250) == 29 * SECOND_NS
    assert budget.wait_ns(SECOND_NS, 100) == 0
    # an answer that was overtaken
    budget.report(200, 2 * SECOND_NS, 28.0)
    assert budget.wait_ns(2 * SECOND_NS, 250) == 28 * SECOND_NS
    budget.done(250)
    assert budget.wait_ns(2 * SECOND_NS, 250) == 0
    budget.report(10**9, 2 * SECOND_NS, 28.0)
    assert budget.wait_ns(2 * SECOND_NS, 1) == 28 * SECOND_NS
    # the next minute
    assert budget.wait_ns(30 * SECOND_NS, 250) == 0


def test_requests_wait_for_the_next_minute_of_the_budget() -> None:
    at: list[float] = []

    async def handler(_: web.Request) -> web.Response:
        at.append(time.monotonic())
        headers = {"X-MBX-USED-WEIGHT-1M": "5400", "Date": "Mon, 30 Nov 2026 10:00:59 GMT"}
        return web.Response(body=b"{}", headers=headers)

    async def act(world: World) -> None:
        await three(world)
        # requested together, before the budget was known; then none until the minute is over
        world.fetcher.submit(request(10))
        await world.until(4)

    world = serve(handler, act)
    assert at[3] - max(at[:3]) > 1.5
    assert world.fetcher.counts["rest_budget_waits"] >= 1
    assert not world.refusals


@pytest.mark.parametrize("said", ["", "-1", "1e9", "\u0663", "9" * 40, "5,400", "nan"])
def test_a_header_without_a_weight_delays_nothing(said: str) -> None:
    headers = {"X-MBX-USED-WEIGHT-1M": said}

    async def act(world: World) -> None:
        for number in range(3):
            world.fetcher.submit(request(number))
            await world.until(number + 1)

    world = serve(body(b"{}", "", 200, **headers), act)
    assert len(world.answers) == 3
    assert world.fetcher.counts["rest_budget_waits"] == 0


def test_counters_say_how_much_of_the_limits_is_used() -> None:
    async def act(world: World) -> None:
        await three(world)
        shown.update(world.fetcher.counters())

    shown: dict[str, int | float] = {}
    headers = {"X-MBX-USED-WEIGHT-1M": "1234", "Date": "Mon, 30 Nov 2026 10:00:00 GMT"}
    world = serve(body(b"{}", "", 200, **headers), act)
    (window,) = world.fetcher._windows.values()
    assert 0 < shown['rest_used{group="weight"}'] <= window.limit.count
    assert shown['rest_limit{group="weight"}'] == window.limit.count
    assert shown['rest_address_used{group="weight"}'] == 1234
    assert shown['rest_address_limit{group="weight"}'] == 5400


def test_cookies_are_not_kept() -> None:
    seen = []

    async def handler(request: web.Request) -> web.Response:
        seen.append(request.headers.get("Cookie"))
        return web.Response(body=b"[]", headers={"Set-Cookie": f"c{len(seen)}=1"})

    async def twice(world: World) -> None:
        # a client keeps no cookies of an address in any case
        world.fetcher.base = world.fetcher.base.replace("127.0.0.1", "localhost")
        for number in range(2):
            world.fetcher.submit(request(number))
            await world.until(number + 1)

    serve(handler, twice)
    assert seen == [None, None]
