"""Names of assets in any script: which are accepted, and that no two of them look alike."""

from __future__ import annotations

import asyncio
import unicodedata
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from coinspace._ext.collector_book import BookMarket
from coinspace._ext.sink import ListSink
from coinspace.bus import topics
from coinspace.bus.nats import subjects
from coinspace.collector.collection import Collection
from coinspace.config import load
from coinspace.endpoint.history.bulk import CSV, file_name
from coinspace.errors import MarketError
from coinspace.exchanges import exchange
from coinspace.exchanges.exchange import NAME_SIZE, RestTrade, TradePage
from coinspace.market import NAME_BYTES, Market, as_named, is_name
from coinspace.simulator.server import ExchangeServer
from coinspace.simulator.simulation import Simulation
from coinspace.storage.rows import TopicRows
from tests.waiting import until

LIFE = "币安人生"
GOOD = [
    LIFE,
    "비트코인",
    "ビットコイン",
    "日本々",
    "ราคาดี",
    "भारत",
    "בית",
    "بيتكوين",
    "BTC币",
    "1币",
    "𠮷",
]
BAD = {
    "": "empty",
    "btc": "small letters",
    "ß": "its capital is SS",
    "ẞ": "its small letter is ß",
    "İSTANBUL": "the Turkish capital i",
    "ISTıNBUL": "the Turkish small i",
    "ВТС": "Cyrillic letters that look like BTC",
    "ΒΤC": "Greek letters that look like BT",
    "ＢＴＣ": "wide letters",
    "\u212a": "the sign of Kelvin",
    "ꓐꓔꓚ": "Lisu letters that look like BTC",
    unicodedata.normalize("NFD", "비트"): "Korean letters in parts",
    "가\u3164": "a filler that shows nothing",
    "币\u200b安": "a space without width",
    "\u202e币安": "a mark of the direction",
    "币\u200f": "a mark of the direction",
    "BTC\u0300": "an accent on a letter of another script",
    "币\ufe0f": "a variation selector",
    "\u0e34": "a vowel without its letter",
    "BTCבית": "two directions of writing",
    "币 安": "a space",
    "币.安": "a dot would end a word of a topic",
    "币/安": "a slash",
    "币%安": "a percent sign",
    "币\n": "a line break",
    "🚀": "not a letter",
    "币" * 11: "33 bytes",
    "\ud800": "half of a character",
}


@pytest.mark.parametrize("name", GOOD)
def test_names_in_any_script_are_markets(name: str) -> None:
    market = Market.parse(f"{name}/USDT")
    assert str(market) == f"{name}/USDT"
    assert as_named(f"{name}/usdt") == str(market)
    assert as_named(unicodedata.normalize("NFD", name)) == name


@pytest.mark.parametrize("name", BAD, ids=BAD.values())
def test_names_that_could_be_taken_for_another_one_are_refused(name: str) -> None:
    with pytest.raises(MarketError, match="expected BASE/QUOTE") as refused:
        Market.parse(f"{name}/USDT")
    assert str(refused.value).isascii()
    assert str(refused.value).isprintable()


@given(st.text(min_size=1, max_size=6))
def test_a_name_has_one_spelling_and_one_case(text: str) -> None:
    if not is_name(text):
        return
    assert text == text.upper() == as_named(text) == unicodedata.normalize("NFKC", text)
    assert text.isprintable()
    assert len(text.encode()) <= NAME_BYTES
    others = text.lower(), text.casefold(), text.title()
    assert all(as_named(one) == text for one in others)


@pytest.mark.parametrize("name", GOOD)
def test_a_name_is_a_topic_a_subject_a_symbol_and_a_file_name(name: str) -> None:
    market = Market.parse(f"{name}/{name}")
    text = str(market)
    topic = topics.build("orderbook", "binance", text)
    assert topics.parse(topic).market == text
    assert ListSink().topic(topic).name == topic
    subject = subjects.subject("coinspace.bus.x", topic)
    assert subject.isascii()
    assert subjects.topic("coinspace.bus.x", subject) == topic
    # no topic is the beginning of another one
    longer = topics.build("orderbook", "binance", f"{text}币"[:41])
    assert not longer.startswith(topic)
    for spelled in ("binance", "upbit"):
        assert len(exchange(spelled).symbol_of(market).encode()) <= NAME_SIZE
    file = file_name(("binance", text, "trades", "2026-11-30T00:00:00Z"), CSV)
    assert file.isascii()
    assert len(file) < 255
    head = TopicRows("p", topic.decode(), "binance", text).heads[0]
    assert head == f"orderbook,exchange=binance,market={text} ".encode()


def test_requests_and_streams_are_percent_encoded() -> None:
    binance = exchange("binance")
    symbols = ["BTCUSDT", f"{LIFE}USDT"]
    (one,) = binance.subscriptions(binance.SETTINGS, ("trade",), symbols)
    assert one.url.isascii()
    streams = parse_qs(urlsplit(one.url).query)["streams"][0].split("/")
    assert streams == [f"{LIFE}usdt@trade", "btcusdt@trade"]
    many = [f"A{n}USDT" for n in range(150)]
    (one,) = binance.subscriptions(binance.SETTINGS, ("trade",), [*many, symbols[1]])
    assert all(frame.isascii() for frame in one.frames)
    for name, symbol in (("binance", symbols[1]), ("upbit", f"KRW-{LIFE}"), ("bithumb", "KRW-코")):
        module = exchange(name)
        request = module.trades_request(symbol)
        trade = RestTrade(symbol, 5, 10**18, 1.0, 1.0, False)
        older = module.older_trades_request(TradePage(request, [trade], True, trade, 0, 10**18))
        assert older is not None
        requests = [
            module.snapshot_request(symbol, 100),
            *module.compare_requests([symbol]),
            request,
            older,
        ]
        assert all(one.path.isascii() for one in requests)
        assert all(symbol in str(parse_qs(urlsplit(one.path).query)) for one in requests)
        recorded = module.request_of(module.compare_requests([symbol])[0].path)
        assert recorded is not None
        assert recorded.symbols == (symbol,)


def test_a_list_of_markets_has_names_in_any_script_and_leaves_out_lookalikes() -> None:
    rows = [
        {"symbol": f"{name}USDT", "status": "TRADING", "baseAsset": name, "quoteAsset": "USDT"}
        for name in (LIFE, "ВТС", "BTC")
    ]
    listings = exchange("binance").read_markets(orjson.dumps({"symbols": rows}))
    assert [str(one.market) for one in listings] == [f"{LIFE}/USDT", "BTC/USDT"]


def test_frames_of_a_name_in_any_script_are_read() -> None:
    symbol = f"{LIFE}USDT"
    parser = exchange("binance").parser(10, [f"{LIFE}/USDT"])
    frame = {
        "stream": f"{symbol.lower()}@trade",
        "data": {"e": "trade", "E": 1, "s": symbol, "t": 5, "p": "1", "q": "2", "T": 1, "m": True},
    }
    (read,) = parser.decode(orjson.dumps(frame))
    assert (read["symbol"], read["market"]) == (symbol, f"{LIFE}/USDT")
    assert BookMarket(0, symbol, f"{LIFE}/USDT", ListSink().topic(b"orderbook.x.y."), 5).market


def test_a_configuration_names_markets_in_any_script(tmp_path: Path) -> None:
    path = tmp_path / "coinspace.toml"
    path.write_text(
        f'exchanges.binance.markets = ["{LIFE}/usdt", "btc/usdt"]\nindex.assets = ["{LIFE}", "btc"]'
    )
    settings = load(path)
    assert settings.exchanges["binance"].markets == [f"{LIFE}/USDT", "BTC/USDT"]
    assert settings.index.assets == [LIFE, "BTC"]


class Health:
    """A substitute for a process."""

    stopping = asyncio.Event()

    def failed(self, name: str, error: BaseException) -> None:
        raise error

    def ready(self) -> None:
        """Do nothing."""

    def degraded(self, reason: str, kind: str | None = None) -> None:
        """Do nothing."""


@pytest.mark.parametrize(("name", "quote"), [("binance", "USDT"), ("upbit", "KRW")])
def test_a_simulated_market_of_a_name_in_any_script_is_collected(name: str, quote: str) -> None:
    market = f"{LIFE}/{quote}"

    async def main() -> set[str]:
        sink = ListSink()
        async with ExchangeServer(Simulation(7, {name: [market]}, rate=3.0)) as server:
            changes = {"markets": [market], **server.urls[name]}
            section = exchange(name).SETTINGS.model_copy(update=changes)
            collection = Collection(section, name, "orderbook", sink, Health())
            await collection.start()
            try:
                await until(lambda: any(one.kind_name == "orderbook" for one in sink.messages))
            finally:
                await collection.stop()
        return {one.market for one in sink.messages}

    assert asyncio.run(main()) == {market}
