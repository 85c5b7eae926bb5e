"""Collectors over TLS, without an Origin, under the exchange's limits; trades across a lost
connection.
"""

import asyncio
import socket
from collections import Counter
from functools import partial
from pathlib import Path

import aiohttp
import pytest
from pydantic import SecretStr

from coinspace._ext.message import GROUPED, REST, Message
from coinspace._ext.sink import ListSink
from coinspace.collector.commands import market_lines
from coinspace.collector.orderbook import OrderBookStage
from coinspace.collector.tools.offline import Replay
from coinspace.collector.tools.probe import Fact, run_probe
from coinspace.config import load
from coinspace.exchanges import exchange as exchange_named
from coinspace.exchanges.exchange import Stream
from coinspace.exchanges.facts import Facts, decode_facts
from coinspace.market import Market
from coinspace.recording.format import FeedReader
from coinspace.simulator.server import ExchangeServer
from coinspace.simulator.session import SIMULATED_KEY
from coinspace.simulator.simulation import Simulation
from tests.flow.certificates import make_certificates
from tests.flow.collecting import Collecting, collecting, rest_trades

MARKET = {"binance": "BTC/USDT", "upbit": "BTC/KRW", "bithumb": "BTC/KRW"}
ONLY = {"binance": ["BTC/USDT", "ETH/USDT"], "upbit": ["BTC/KRW"], "bithumb": ["BTC/KRW"]}


async def test_books_over_wss_and_https_with_a_private_authority(tmp_path: Path) -> None:
    ca_file, context = make_certificates(tmp_path)
    async with ExchangeServer(Simulation(2, ONLY), limits=False, tls=context) as server:
        assert server.urls["binance"]["websocket"].startswith("wss:")
        assert server.urls["binance"]["rest"].startswith("https:")
        async with collecting(server, "binance", ca_file=ca_file) as running:
            await running.until(
                lambda: running.states.get("BTC/USDT") == "synced", "synced over TLS"
            )
            assert running.count("snapshots") >= 1


async def test_a_certificate_of_an_unknown_authority_is_refused(tmp_path: Path) -> None:
    _, context = make_certificates(tmp_path)
    async with (
        ExchangeServer(Simulation(2, ONLY), limits=False, tls=context) as server,
        collecting(server, "binance", markets=["BTC/USDT"]) as running,
    ):
        await running.until(lambda: running.count("connect_failures") >= 1, "our refusal")
        assert running.count("frames") == 0
        assert running.states == {"BTC/USDT": "connecting"}


async def test_no_origin_is_sent_so_upbit_allows_reconnects() -> None:
    # the server allows one request with an Origin per 10 s
    async with ExchangeServer(Simulation(2, ONLY)) as server:
        for _ in range(2):
            async with collecting(server, "upbit", markets=["BTC/KRW"]) as running:
                await running.synced()
        assert server.counters["refused"] == 0


async def test_socket_settings_reach_every_connection(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COINSPACE_TUNING__RECEIVE_BUFFER", "32768")
    async with (
        ExchangeServer(Simulation(2, ONLY)) as server,
        collecting(server, "upbit", markets=["BTC/KRW"]) as running,
    ):
        await running.synced()
        [connection] = running.worker.connections
        [link] = connection.links
        assert link.transport is not None
        sock = link.transport.underlying_transport.get_extra_info("socket")
        # Linux doubles what is asked for
        assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF) == 65_536


async def test_facts_beside_the_price_come_from_the_exchange_or_are_unknown() -> None:
    async with ExchangeServer(Simulation(2, ONLY), limits=False) as server:
        for fault in ("wallet:bithumb:BTC/KRW", "warn:upbit:BTC/KRW", "facts:binance:form=html"):
            server.disorder.add(fault)
        async with (
            collecting(server, "bithumb", "ticker", markets=["BTC/KRW"]) as bithumb,
            collecting(server, "upbit", "ticker", markets=["BTC/KRW"]) as upbit,
            collecting(server, "binance", "ticker", markets=["BTC/USDT"]) as binance,
        ):
            for one in (bithumb, upbit, binance):
                await one.until(partial(one.count, "facts_published"), "facts")
                await one.synced()
            (wallet, warned, neither) = (facts(one) for one in (bithumb, upbit, binance))
            assert (wallet.deposit, wallet.withdraw, wallet.warning) == ("closed", "closed", "none")
            assert wallet.notices is not None
            assert (warned.deposit, warned.warning) == ("unknown", "caution")
            assert (neither.deposit, neither.trading) == ("unknown", "open")
            assert binance.count('fact_answers_refused{reason="unreadable"}') == 1
            # none of it concerns the price
            assert {state for one in (bithumb, upbit) for state in one.states.values()} == {
                "synced"
            }


def facts(running: Collecting) -> Facts:
    """The newest facts that a collector published."""
    return decode_facts([m for m in running.messages if m.kind_name == "fact"][-1].payload)


async def test_every_trade_is_published_once_across_a_lost_connection() -> None:
    """Trades made while no connection was open come by REST; none comes twice."""
    await asyncio.gather(*(every_trade_once(*one) for one in MARKET.items()))


async def every_trade_once(exchange: str, market: str) -> None:
    async with (
        ExchangeServer(Simulation(7, ONLY, rate=3.0), limits=False) as server,
        collecting(server, exchange, "ticker", markets=[market]) as running,
    ):
        await running.until(lambda: len(running.trades(market)) > 3, "some trades")
        # two refusals delay the reconnect by three seconds, in which the market trades
        running.fault(f"handshake:{exchange}:status=503:count=2")
        running.fault(f"reset:{exchange}")
        await running.until(lambda: running.count("connects") >= 2, "connected again")
        await running.until(lambda: running.count("trades_filled") > 0, "trades filled")

        def by_rest() -> list[Message]:
            return [trade for trade in running.trades(market) if trade.flags & REST]

        await running.until(
            lambda: len(by_rest()) == running.count("trades_filled"), "all of them arrive"
        )
        trades, filled = running.trades(market), by_rest()
        ids = [trade.id for trade in trades]
        assert len(ids) == len(set(ids))
        assert running.count("trades_lost") == 0
        known = await rest_trades(server, exchange, market)
        first = min(trade.exchange_ns for trade in trades if not trade.flags & REST)
        last = max(trade.exchange_ns for trade in filled)
        # compared by their values, because Bithumb's two id spaces must not be joined
        ours = Counter(
            (trade.exchange_ns // 1_000_000, *trade.values.tolist(), trade.side) for trade in trades
        )
        theirs = Counter(
            (one.exchange_ns // 1_000_000, one.price, one.size, "sell" if one.sell else "buy")
            for one in known
            if first < one.exchange_ns <= last
        )
        assert theirs, "the exchange traded"
        assert not theirs - ours, "trades of the exchange that were not published"
        if exchange == "binance":
            streamed = sorted(ids)
            assert streamed == list(range(streamed[0], streamed[-1] + 1))


@pytest.mark.parametrize("stream", ["orderbook", "ticker"])
async def test_every_format_of_the_korean_exchanges_is_read(stream: Stream) -> None:
    formats = [("upbit", form) for form in ("DEFAULT", "SIMPLE", "JSON_LIST", "SIMPLE_LIST")]
    formats += [("bithumb", form) for form in ("DEFAULT", "SIMPLE")]
    async with ExchangeServer(Simulation(2, ONLY), limits=False) as server:
        await asyncio.gather(*(read_format(server, stream, *one) for one in formats))


async def read_format(server: ExchangeServer, stream: Stream, exchange: str, form: str) -> None:
    async with collecting(
        server, exchange, stream, markets=["BTC/KRW"], format=form, record=True
    ) as running:
        await running.synced()
        await running.until(lambda: running.count("messages") > 5, form)
        assert running.count("malformed") == running.count("unknown_symbols") == 0
        assert running.count("ignored") == 0
        # the exchange sent the requested format
        (recorder,) = running.worker.recorders
        await asyncio.to_thread(recorder.close)
        (path,) = (running.worker.process.settings.data / "archive").iterdir()
        with FeedReader(path) as reader:
            frames = [one.payload for one in reader if one.direction == "<"]
    assert all(frame.startswith(b"[") == form.endswith("_LIST") for frame in frames)
    assert all((b'"ty":' in frame) == form.startswith("SIMPLE") for frame in frames)


async def test_pings_of_the_server_are_answered() -> None:
    async with (
        ExchangeServer(Simulation(2, ONLY), ping_s=0.5, pong_s=3.0) as server,
        collecting(server, "binance", markets=["BTC/USDT"]) as running,
    ):
        await running.synced()
        # a client that does not answer is cut after two pings
        await asyncio.sleep(5)
        assert running.count("connects") == 1
        assert running.states == {"BTC/USDT": "synced"}


async def test_hundreds_of_streams_are_subscribed_within_the_message_limit() -> None:
    """The server cuts clients with over five messages a second; unknown streams stay silent."""
    strangers = [f"S{i}/USDT" for i in range(320)]
    async with (
        ExchangeServer(Simulation(2, ONLY)) as server,
        collecting(server, "binance", "ticker", [*strangers, "BTC/USDT"]) as running,
    ):
        await running.until(lambda: running.states.get("BTC/USDT") == "synced", "the last stream")
        # a hundred streams in the address, six frames for the others
        await running.until(lambda: running.count("acks") == 6, "every answer")
        assert running.count("connects") == 1
        assert running.count("disconnects") == 0


async def test_a_trade_that_the_stream_dropped_is_found_and_filled() -> None:
    """Binance's trade ids show it, the volume of the day shows it on the others."""
    await asyncio.gather(*(dropped_trade_filled(*one) for one in MARKET.items()))


async def dropped_trade_filled(exchange: str, market: str) -> None:
    symbol = exchange_named(exchange).symbol_of(Market.parse(market))
    async with (
        ExchangeServer(Simulation(7, ONLY, rate=2.0), limits=False) as server,
        collecting(server, exchange, "ticker", markets=[market]) as running,
    ):
        await running.until(lambda: len(running.trades(market)) > 5, "some trades")
        if exchange != "binance":
            await running.until(lambda: running.count("volumes_proven") >= 1, "a proof")
        fault = running.fault(f"drop:{exchange}:{symbol}:channel=trade:count=1")
        await running.until(lambda: fault.hits == 1, "a trade is dropped")
        await running.until(lambda: running.count("trades_filled") == 1, "it is filled")
        assert running.count("trade_gaps") == 1
        assert running.count("trades_lost") == running.count("volume_unexplained") == 0
        if exchange != "binance":
            assert running.count("volume_gaps") == 1
        # published, and on its way through the socket
        await running.until(
            lambda: any(trade.flags & REST for trade in running.trades(market)), "it arrives"
        )
        trades = running.trades(market)
        (filled,) = (trade for trade in trades if trade.flags & REST)
        known = await rest_trades(server, exchange, market)
        first = min(trade.exchange_ns for trade in trades[1:])
        ours = Counter((trade.exchange_ns // 1_000_000, *trade.values.tolist()) for trade in trades)
        theirs = Counter(
            (one.exchange_ns // 1_000_000, one.price, one.size)
            for one in known
            if first < one.exchange_ns <= filled.exchange_ns
        )
        assert theirs[filled.exchange_ns // 1_000_000, *filled.values.tolist()]
        assert all(ours[key] == count for key, count in theirs.items())


async def test_patterns_subscribe_to_what_the_exchange_offers() -> None:
    async with (
        ExchangeServer(Simulation(2), limits=False) as server,
        collecting(server, "upbit", markets=["*/KRW"]) as running,
    ):
        await running.synced()
        assert set(running.states) == {f"{b}/KRW" for b in ("BTC", "ETH", "XRP", "SOL", "USDT")}


@pytest.mark.parametrize(("name", "single"), [("upbit", 30), ("bithumb", 15)])
async def test_price_groups_extend_books_by_default_and_recordings_repeat_them(
    name: str, single: int, tmp_path: Path
) -> None:
    reach = exchange_named(name).SETTINGS.group_reach
    assert reach > 0
    async with (
        ExchangeServer(Simulation(2), limits=False) as server,
        collecting(server, name, markets=["BTC/KRW"], record=True, group_reach=reach) as running,
    ):
        await running.until(
            lambda: sum(bool(book.flags & GROUPED) for book in running.books("BTC/KRW")) > 5,
            "books with price groups",
        )
        assert running.count("grouped_markets") == 1
        published = running.books("BTC/KRW")
        (recorder,) = running.worker.recorders
        await asyncio.to_thread(recorder.close)
        (path,) = (running.worker.process.settings.data / "archive").iterdir()
        (tmp_path / path.name).write_bytes(path.read_bytes())
    extended = [book for book in published if book.flags & GROUPED]
    for book in extended:
        assert book.fine_bids <= single < book.n_bids
        for prices in (-book.bids[0], book.asks[0]):
            assert (prices[1:] > prices[:-1]).all()
    assert extended[-1].bids[0, -1] < extended[-1].bids[0, 0] * 0.995
    sink = ListSink()
    stage = OrderBookStage(exchange_named(name), [("KRW-BTC", "BTC/KRW")], sink, depth=30)
    replay = Replay(stage)
    with FeedReader(tmp_path / path.name) as reader:
        for record in reader:
            replay.feed(record)
    again = {
        one.received_ns: (one.flags & GROUPED, bytes(one.payload))
        for one in sink.messages
        if one.kind_name == "orderbook"
    }
    compared = [one for one in published if one.received_ns in again]
    assert len(compared) >= len(extended)
    for one in compared:
        assert again[one.received_ns] == (one.flags & GROUPED, bytes(one.payload))


async def test_recorded_frames_rebuild_the_same_books(tmp_path: Path) -> None:
    """Archived frames, replayed into a stage, give the messages that the collector published."""

    saved = tmp_path / "archive"
    async with (
        ExchangeServer(Simulation(9, ONLY), limits=False) as server,
        collecting(server, "binance", record=True) as running,
    ):
        await running.until(
            lambda: sum(not book.flags for book in running.books("BTC/USDT")) > 10, "some books"
        )
        archive = running.worker.process.settings.data / "archive"
        published = running.messages
        (recorder,) = running.worker.recorders
        await asyncio.to_thread(recorder.close)
        saved.mkdir()
        for path in archive.iterdir():
            (saved / path.name).write_bytes(path.read_bytes())
    (path,) = saved.iterdir()
    sink = ListSink()
    entries = [(symbol + "USDT", symbol + "/USDT") for symbol in ("BTC", "ETH", "XRP", "SOL")]
    stage = OrderBookStage(exchange_named("binance"), entries, sink, depth=500)
    with FeedReader(path) as reader:
        replay = Replay(stage)
        for record in reader:
            replay.feed(record)
    again = {
        (m.market, m.id): (m.received_ns, bytes(m.payload))
        for m in sink.messages
        if m.kind_name == "orderbook"
    }
    live = [m for m in published if m.kind_name == "orderbook" and not m.flags]
    assert len(live) > 10
    compared = 0
    for message in live:
        if (message.market, message.id) in again:
            compared += 1
            assert again[message.market, message.id] == (
                message.received_ns,
                bytes(message.payload),
            )
    assert compared >= 10


async def test_probe_passes_on_the_simulated_exchanges() -> None:
    async with ExchangeServer(Simulation(4), limits=False) as server:
        names = ("upbit", "bithumb", "binance")
        found = await asyncio.gather(*(probed(server, name) for name in names))
    for facts in found:
        assert not [fact for fact in facts if fact.verdict == "fail"]
        assert len(facts) >= 18
    assert "binary streams: updates of books come" in {fact.name for fact in found[2]}


async def probed(server: ExchangeServer, name: str) -> list[Fact]:
    settings = load().exchanges[name]
    settings.websocket = server.urls[name]["websocket"]
    settings.rest = server.urls[name]["rest"]
    if name == "binance":
        settings.format, settings.api_key = "sbe", SecretStr(SIMULATED_KEY)
    return await run_probe(name, settings, 3.0)


async def test_probe_reports_what_is_wrong() -> None:
    async with ExchangeServer(Simulation(4), limits=False) as server:
        server.disorder.add("garbage:upbit")
        facts = {fact.name: fact for fact in await probed(server, "upbit")}
        assert facts["orderbook: every frame can be read"].verdict == "fail"
        assert facts["REST compare"].verdict == "pass"


async def test_the_market_list_is_printed_by_quote_and_base() -> None:
    async with ExchangeServer(Simulation(4), limits=False) as server:
        spelled = exchange_named("upbit")
        async with (
            aiohttp.ClientSession() as client,
            client.get(server.urls["upbit"]["rest"] + spelled.markets_request().path) as answer,
        ):
            lines = list(market_lines(spelled.read_markets(await answer.read()), False))
        assert lines[0].split()[:2] == ["BTC/KRW", "KRW-BTC"]
