"""Every fault of an exchange, against a real collector: what becomes of the books and the
counters.
"""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator
from itertools import pairwise

import pytest

from coinspace.collector import collection as collection_module
from coinspace.collector import connection as connection_module
from coinspace.exchanges import binance, upbit
from coinspace.simulator.server import ExchangeServer
from coinspace.simulator.simulation import Simulation
from tests.flow.collecting import Collecting, Truth, collecting

MARKETS = ["BTC/USDT", "ETH/USDT"]
SYMBOLS = {"BTCUSDT": "BTC/USDT", "ETHUSDT": "ETH/USDT"}
ONLY = {"binance": MARKETS, "upbit": ["BTC/KRW", "ETH/KRW"]}


@pytest.fixture(autouse=True)
def patience(monkeypatch: pytest.MonkeyPatch) -> None:
    """A slow handshake on a loaded machine is not a fault of the exchange."""
    monkeypatch.setattr(connection_module, "HANDSHAKE_TIMEOUT_S", 60.0)


@pytest.fixture
async def server() -> AsyncIterator[ExchangeServer]:
    async with ExchangeServer(Simulation(11, ONLY), limits=False) as running:
        yield running


async def books_go_on(running: Collecting, market: str = "BTC/USDT", more: int = 4) -> None:
    before = len(running.books(market))
    await running.until(lambda: len(running.books(market)) >= before + more, f"{market} goes on")


async def played(server: ExchangeServer, spec: str, **counted: int) -> Collecting:
    """Collect two Binance books; apply a fault until counters show it, then let them recover."""
    async with collecting(server, "binance", markets=MARKETS) as running:
        truth = Truth(running, SYMBOLS)
        watch = asyncio.create_task(truth.watch())
        await running.synced()
        # later frames cannot be part of the snapshot
        await books_go_on(running)
        fault = running.fault(spec)
        hits = fault.count if ":count=" in spec else 1
        await running.until(lambda: fault.hits >= hits, f"{spec} has an effect")
        await running.until(
            lambda: all(running.count(name) >= least for name, least in counted.items()),
            f"{spec} is counted as {counted}",
        )
        server.disorder.clear()
        await running.synced()
        await books_go_on(running)
        await running.until(
            lambda: len(recovered(running)) == running.count("resyncs"), "every gap has an end"
        )
        await running.until(lambda: truth.check() > 0, "a book that REST returned, too")
        watch.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await watch
        assert running.count("crossed") == 0
        return running


def recovered(running: Collecting) -> list[int]:
    """Return how long each gap of BTC lasted, ns."""
    reported = running.reported("BTC/USDT")
    return [one["recovery_ns"] for one in reported if "recovery_ns" in one]


# counters that each fault must raise; when the last ones end, newer frames overtake withheld ones
FRAME_FAULTS: list[tuple[str, dict[str, int]]] = [
    ("drop:binance:BTCUSDT:count=1", {"gaps": 1, "resyncs": 1}),
    ("truncate:binance:BTCUSDT:count=1", {"malformed": 1, "gaps": 1, "resyncs": 1}),
    ("garbage:binance:BTCUSDT:count=1", {"malformed": 1, "gaps": 1, "resyncs": 1}),
    ("reorder:binance:BTCUSDT:count=1", {"gaps": 1, "resyncs": 1}),
    ("duplicate:binance:BTCUSDT:count=5", {"gaps": 0, "resyncs": 0, "malformed": 0}),
    ("huge:binance:BTCUSDT:count=2", {"gaps": 0, "malformed": 0}),
    ("split:binance:BTCUSDT:count=5:n=3", {"gaps": 0, "malformed": 0}),
    ("chop:binance:BTCUSDT:count=5:n=3:ms=5", {"gaps": 0, "malformed": 0}),
    ("stall:binance:BTCUSDT:count=5", {"malformed": 0}),
    ("coalesce:binance:BTCUSDT:count=8:n=4", {"malformed": 0}),
    ("delay:binance:BTCUSDT:ms=300:count=5", {"malformed": 0}),
]


async def one_bad_symbol(spec: str, counted: dict[str, int]) -> None:
    began = time.monotonic()
    async with ExchangeServer(Simulation(11, {"binance": MARKETS}), limits=False) as server:
        running = await played(server, spec, **counted)
    for name, expected in counted.items():
        assert running.count(name) == expected, name
    assert running.count("failures") == 0
    assert running.count("disconnects") == 1, "only the one at the end"
    # the other symbol was not affected
    eth = [reported["state"] for reported in running.reported("ETH/USDT")]
    assert eth[-2:] == ["synced", "disconnected"], eth
    assert eth.count("synced") == 1
    took_ns = (time.monotonic() - began) * 1e9
    assert len(recovered(running)) == running.count("resyncs")
    assert all(0 < one < took_ns for one in recovered(running))
    ids = [book.id for book in running.books("ETH/USDT")]
    assert ids == sorted(set(ids)), "every update once, in order"


async def test_bad_frames_of_one_symbol_affect_only_that_symbol() -> None:
    """Run some frame faults at a time, each with its own exchange and collector."""
    places = asyncio.Semaphore(4)

    async def in_turn(spec: str, counted: dict[str, int]) -> None:
        async with places:
            await one_bad_symbol(spec, counted)

    results = await asyncio.gather(
        *(in_turn(*fault) for fault in FRAME_FAULTS), return_exceptions=True
    )
    failed = {
        spec: result
        for (spec, _), result in zip(FRAME_FAULTS, results, strict=True)
        if result is not None
    }
    assert not failed, failed


@pytest.mark.parametrize(
    ("spec", "reason"),
    [
        ("reset:binance", "lost"),
        ("close:binance:code=1001:reason=maintenance", "1001 maintenance"),
    ],
)
async def test_lost_connections_come_back(server: ExchangeServer, spec: str, reason: str) -> None:
    running = await played(server, spec, connects=2)
    assert running.count("connects") == 2
    reported = [one for one in running.reported("BTC/USDT") if one["state"] == "disconnected"]
    assert reason in reported[0]["reason"]
    order = [one["state"] for one in running.reported("BTC/USDT")]
    first = order.index("disconnected")
    assert order[first:][:5] == ["disconnected", "connecting", "subscribed", "buffering", "synced"]


async def test_a_shutdown_message_replaces_the_connection_before_it_is_cut(
    server: ExchangeServer,
) -> None:
    running = await played(server, "shutdown:binance:n=60", replacements=1)
    assert running.count("shutdowns") == 1
    assert running.count("replacements") == 1
    # the new connection opens first: no state but synced, no update missed, none twice
    for market in MARKETS:
        states = [one["state"] for one in running.reported(market)]
        assert states.count("synced") == 1
        assert states[-1] == "disconnected"
    assert running.count("gaps") == 0
    ids = [book.id for book in running.books("BTC/USDT")]
    assert ids == sorted(set(ids))


async def test_connections_are_replaced_before_their_longest_life(
    server: ExchangeServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(binance, "LIFETIME_S", 601.5)
    async with collecting(server, "binance", markets=MARKETS) as running:
        await running.synced()
        await running.until(lambda: running.count("replacements") >= 2, "two replacements")
        await books_go_on(running)
        assert running.count("gaps") == 0
        for market in MARKETS:
            assert [one["state"] for one in running.reported(market)].count("synced") == 1
            ids = [book.id for book in running.books(market)]
            assert ids == sorted(set(ids))


async def test_no_trade_is_lost_or_repeated_when_connections_are_replaced(
    server: ExchangeServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(binance, "LIFETIME_S", 601.5)
    async with collecting(server, "binance", "ticker", markets=["BTC/USDT"]) as running:
        await running.until(lambda: len(running.trades("BTC/USDT")) > 3, "trades")
        await running.until(lambda: running.count("replacements") >= 2, "two replacements")
        before = len(running.trades("BTC/USDT"))
        await running.until(lambda: len(running.trades("BTC/USDT")) > before + 3, "trades go on")
        ids = sorted(trade.id for trade in running.trades("BTC/USDT"))
        assert ids == list(range(ids[0], ids[-1] + 1))
        assert running.count("trade_gaps") == running.count("trades_by_rest") == 0
        assert [one["state"] for one in running.reported("BTC/USDT")].count("synced") == 1


async def test_a_half_open_connection_is_noticed(
    server: ExchangeServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(binance, "PING_INTERVAL_S", 1.0)
    running = await played(server, "halfopen:binance", connects=2)
    assert running.count("connects") == 2


async def test_a_connection_without_market_frames_is_noticed(server: ExchangeServer) -> None:
    async with collecting(server, "binance", markets=MARKETS) as running:
        await running.synced()
        running.fault("mute:binance")
        # pongs continue, so only REST can show it
        await running.until(lambda: running.count("replacements") >= 1, "a replacement")
        server.disorder.clear()
        await running.synced()


async def test_one_mute_symbol_is_found_by_rest(server: ExchangeServer) -> None:
    async with collecting(server, "upbit", markets=["BTC/KRW", "ETH/KRW"]) as running:
        await running.synced()
        running.fault("mute:upbit:KRW-BTC")
        await running.until(
            lambda: running.states["BTC/KRW"] == "stale", "the mute market is stale"
        )
        assert running.states["ETH/KRW"] == "synced"
        assert running.count("drifts") == 1
        server.disorder.clear()
        await running.until(lambda: running.count("replacements") >= 1, "a new connection")
        await running.synced()


async def test_corrupted_frames_stop_no_book(server: ExchangeServer) -> None:
    """Most are not JSON or name an unknown symbol; the next frame repairs a whole book."""
    async with collecting(server, "upbit", markets=["BTC/KRW", "ETH/KRW"]) as running:
        await running.synced()
        fault = running.fault("flip:upbit:KRW-BTC:count=40")
        await running.until(lambda: fault.hits == 40, "bytes change")
        await books_go_on(running, "BTC/KRW")
        await running.synced()
        assert running.count("malformed") > 0
        assert running.count("failures") == 0
        assert running.count("connects") == 1
        # every frame has an outcome
        assert running.count("frames") == sum(
            running.count(name)
            for name in (
                "applied",
                "backwards",
                "crossed",
                "malformed",
                "unknown_symbols",
                "ignored",
                "controls",
            )
        )
        assert [one["state"] for one in running.reported("ETH/KRW")].count("synced") == 1
        bids, asks = running.books("BTC/KRW")[-1].bids, running.books("BTC/KRW")[-1].asks
        assert bids[0, 0] < asks[0, 0]


async def test_a_corrupted_digit_is_found_by_rest(server: ExchangeServer) -> None:
    """Only the exchange itself can show that such a book is wrong."""
    async with collecting(server, "binance", markets=MARKETS, compare_interval_s=5.0) as running:
        await running.synced()
        running.fault("digit:binance:BTCUSDT")
        # one of the periodic comparisons; some fall between two updates, and later updates repair
        # the book, so digits change until one has found it
        await running.until(lambda: running.count("drifts") > 0, "REST differs")
        server.disorder.clear()
        await running.until(lambda: running.states["BTC/USDT"] == "synced", "a new book")
        reported = running.reported("BTC/USDT")
        assert "differs from REST" in {one["reason"] for one in reported}
        assert running.count("malformed") == running.count("gaps") == 0
        assert [one["state"] for one in running.reported("ETH/USDT")].count("synced") == 1
        # a drift that was found while digits changed may have left others to the next comparison
        confirmed = running.count("confirmed")
        await running.until(lambda: running.count("confirmed") > confirmed + 2, "agreement")
        await running.synced()
        del running.messages[:]
        truth = Truth(running, SYMBOLS)
        watch = asyncio.create_task(truth.watch())
        await books_go_on(running, more=10)
        await running.until(lambda: truth.check(levels=99) > 0, "a book that REST returned, too")
        watch.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await watch


async def test_a_wrong_book_of_a_silent_market_is_found_by_rest(
    server: ExchangeServer,
) -> None:
    async with collecting(server, "upbit", markets=["BTC/KRW", "ETH/KRW"]) as running:
        await running.synced()
        fault = running.fault("digit:upbit:KRW-BTC")
        await running.until(lambda: fault.hits > 2, "digits change")
        running.fault("mute:upbit:KRW-BTC")
        await running.until(
            lambda: running.states["BTC/KRW"] == "stale", "the wrong market is stale"
        )
        assert running.count("drifts") == 1
        assert running.states["ETH/KRW"] == "synced"
        server.disorder.clear()
        await running.synced()


@pytest.mark.parametrize("status", [429, 418, 503])
async def test_refused_snapshots_wait_as_long_as_the_exchange_asks(
    server: ExchangeServer, status: int
) -> None:
    async with collecting(server, "binance", markets=MARKETS) as running:
        await running.synced()
        # later frames cannot be part of the snapshot
        await books_go_on(running)
        fault = running.fault(f"rest:binance:status={status}:retry=1:path=depth:count=1")
        running.fault("drop:binance:BTCUSDT:count=1")
        await running.until(lambda: running.count("rest_refusals") >= 1, "a refusal")
        await running.until(lambda: recovered(running), "the end of the gap")
        assert fault.hits == 1
        if status != 503:
            assert recovered(running)[0] > 900_000_000
        assert running.states["ETH/USDT"] == "synced"


async def test_stale_snapshots_are_not_used(server: ExchangeServer) -> None:
    async with collecting(server, "binance", markets=MARKETS) as running:
        await running.synced()
        running.fault("stale:binance:BTCUSDT")
        await books_go_on(running)
        running.fault("drop:binance:BTCUSDT:count=1")
        await running.until(lambda: running.count("stale_snapshots") >= 1, "a stale snapshot")
        assert running.states["BTC/USDT"] != "synced"
        server.disorder.clear()
        await running.synced()
        books = running.books("BTC/USDT")
        assert [book.id for book in books] == sorted({book.id for book in books})


@pytest.mark.parametrize(
    ("status", "reason"), [(429, "HTTP 429"), (418, "HTTP 418"), (503, "maintenance: HTTP 503")]
)
async def test_refused_handshakes_are_repeated_later(
    server: ExchangeServer, status: int, reason: str
) -> None:
    server.disorder.add(f"handshake:binance:status={status}:count=2")
    began = asyncio.get_running_loop().time()
    async with collecting(server, "binance", markets=MARKETS) as running:
        await running.synced()
        assert running.count("connect_failures") == 2
        # the server says one second each time, the dialer two at the second
        assert asyncio.get_running_loop().time() - began > 2
        reported = running.reported("BTC/USDT")
        assert [one["state"] for one in reported].count("connecting") >= 2
        assert reason in [one["reason"] for one in reported]


async def test_halts_and_delistings_are_reported_and_end(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The exchange's list explains the silence."""
    monkeypatch.setattr(collection_module, "MARKETS_INTERVAL_NS", 300_000_000)
    async with (
        ExchangeServer(Simulation(11), limits=False) as server,
        collecting(server, "binance", markets=MARKETS) as running,
    ):
        await running.synced()
        running.fault("halt:binance:BTCUSDT")
        running.fault("delist:binance:SOLUSDT")
        await running.until(lambda: running.states["BTC/USDT"] == "halted", "a halt")
        await running.until(lambda: running.reported("SOL/USDT"), "a delisting")
        await running.until(
            lambda: running.reported("BTC/USDT")[-1]["reason"] == "HALT", "its reason is reported"
        )
        assert running.states["ETH/USDT"] == "synced"
        # a halted market is not a fault of the process
        await running.until(lambda: running.worker.process.state == "ready", "no fault")
        sol = running.reported("SOL/USDT")[-1]
        assert (sol["change"], sol["collected"]) == ("delisted", False)
        server.disorder.clear()
        await running.until(lambda: running.states["BTC/USDT"] == "synced", "the halt ends")
        await books_go_on(running, more=1)
        await running.until(
            lambda: (
                [one["change"] for one in running.reported("SOL/USDT")] == ["delisted", "listed"]
            ),
            "listed again",
        )
        await running.until(lambda: running.count("listing_events") == 4, "four events")


async def test_a_suspended_market_of_a_korean_exchange_is_halted_until_it_trades(
    server: ExchangeServer,
) -> None:
    """The list does not show the suspension, the first ticker does."""
    server.disorder.add("halt:upbit:KRW-BTC")
    async with collecting(server, "upbit", "ticker", markets=["BTC/KRW", "ETH/KRW"]) as running:
        await running.until(
            lambda: running.states == {"BTC/KRW": "halted", "ETH/KRW": "synced"}, "a halt"
        )
        await running.until(
            lambda: running.worker.process.state == "ready", "no fault of the process"
        )
        server.disorder.clear()
        await running.synced()
        await running.until(
            lambda: (
                [one["change"] for one in running.reported("BTC/KRW") if "change" in one]
                == ["halted", "resumed"]
            ),
            "both are reported",
        )


@pytest.mark.parametrize(("exchange", "market"), [("upbit", "BTC/KRW"), ("binance", "BTC/USDT")])
async def test_a_refused_subscription_is_tried_again_later(
    server: ExchangeServer, monkeypatch: pytest.MonkeyPatch, exchange: str, market: str
) -> None:
    monkeypatch.setattr(connection_module, "REFUSED_S", 3.0)
    async with collecting(server, exchange, markets=[market]) as running:
        await running.synced()
        process = running.worker.process
        running.fault(f"error:{exchange}")
        await running.until(
            lambda: "refused" in str(process.reason) and process.state == "degraded",
            "the refusal is shown",
        )
        await running.until(lambda: running.count("connects") == 2, "another subscription")
        await running.synced()
        times = {
            state: [
                message.received_ns
                for message in running.messages
                if message.kind_name == "state" and message.json()["state"] == state
            ]
            for state in ("disconnected", "subscribed")
        }
        assert times["subscribed"][1] - times["disconnected"][0] > 2 * 10**9, "no loop"
        await running.until(lambda: process.state == "ready", "the refusal is over")


async def test_an_exchange_clock_that_is_hours_off_stops_no_book(server: ExchangeServer) -> None:
    async with collecting(server, "upbit", markets=["BTC/KRW"]) as running:
        await running.synced()

        def jumps() -> int:
            books = running.books("BTC/KRW")
            return sum(abs(b.exchange_ns - a.exchange_ns) > 3.6e12 for a, b in pairwise(books))

        await books_go_on(running, "BTC/KRW")
        running.fault("clock:upbit:by=3h")
        await running.until(lambda: jumps() == 1, "a book of that clock")
        server.disorder.clear()
        await running.until(lambda: jumps() == 2, "there and back")
        await books_go_on(running, "BTC/KRW")
        await running.synced()
        assert jumps() == 2
        assert running.count("clock_steps") == 1


async def test_an_unknown_symbol_is_reported_and_the_others_run(
    server: ExchangeServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    from coinspace.collector import stage

    monkeypatch.setattr(stage, "FIRST_FRAME_NS", 3_000_000_000)
    async with collecting(server, "upbit", markets=["BTC/KRW", "NOSUCH/KRW"]) as running:
        await running.until(
            lambda: running.states == {"BTC/KRW": "synced", "NOSUCH/KRW": "stale"},
            "one synced, one stale",
        )
        assert running.count("first_frame_timeouts") == 1
        assert "KRW-NOSUCH" in running.reported("NOSUCH/KRW")[-1]["reason"]


async def test_quiet_connections_are_kept_alive(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(upbit, "PING_INTERVAL_S", 0.5)
    async with (
        ExchangeServer(Simulation(3, ONLY), idle_s=4.0) as server,
        collecting(server, "upbit", markets=["BTC/KRW"]) as running,
    ):
        await running.synced()
        await asyncio.sleep(6)
        assert running.count("connects") == 1
        assert running.states == {"BTC/KRW": "synced"}
