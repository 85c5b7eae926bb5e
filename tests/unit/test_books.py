"""`coinspace books` on the recordings, and on feeds written for one rule each."""

from pathlib import Path

import orjson
import pytest
from click.testing import CliRunner

from coinspace.collector.commands import books
from coinspace.collector.tools.checker import Checked, TopCheck
from coinspace.errors import FeedError
from coinspace.recording.format import FeedWriter


def run(*args: object) -> tuple[list[dict[str, object]], int]:
    result = CliRunner().invoke(books, [str(arg) for arg in args])
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return [orjson.loads(line) for line in result.stdout.splitlines()], result.exit_code


def test_both_binance_recordings_agree_with_every_best_price(feeds: Path) -> None:
    lines, code = run(
        feeds / "binance-btcusdt-20240808.feed.zst",
        feeds / "binance-ethusdt-20240808.feed.zst",
        "--check",
    )
    assert code == 0
    btc, eth, both = (line for line in lines if "feed" in line)
    assert (btc["updates"], eth["updates"]) == (3449, 3432)
    assert both == {
        "feed": "all",
        "updates": 6881,
        "matches": 6881,
        "mismatches": 0,
        "unchecked": 0,
        "gaps": 0,
        "crossed": 0,
        "malformed": 0,
    }
    updates = [line for line in lines if "feed" not in line]
    assert len(updates) == 6881
    assert updates[0] == {
        "recv_ns": 1723161254137307667,
        "exchange": "binance",
        "market": "BTC/USDT",
        "update_id": 50093239224,
        "best_bid": 61837.63,
        "bid_size": 3.78826,
        "best_ask": 61837.64,
        "ask_size": 1.6052,
        "bids": 999,
        "asks": 1002,
    }


def test_upbit_recording_gives_one_line_per_book(feeds: Path) -> None:
    lines, code = run(feeds / "upbit-9-codes-20210405.feed.zst", "--final")
    assert code == 0
    finals = [line for line in lines if "symbol" in line]
    assert len(lines) - len(finals) == 1061
    assert len(finals) == 9
    assert all(line["bids"] and line["asks"] for line in finals)


def test_legacy_recording_is_refused_with_counts(feeds: Path) -> None:
    # nothing was checked: no success
    path = feeds / "bithumb-legacy-20210601.feed.zst"
    result = CliRunner().invoke(books, [str(path), "--check"])
    assert isinstance(result.exception, FeedError)
    total = orjson.loads(result.stdout.splitlines()[-1])
    assert (total["updates"], total["malformed"]) == (0, 98)


def test_symbols_without_a_name_have_no_market(feeds: Path) -> None:
    path = feeds / "binance-btc-eth-dot-20210404.feed.zst"
    lines, _ = run(path, "--quiet", "--final")
    assert {line["symbol"]: line["market"] for line in lines}["DOTUSDT"] is None
    lines, _ = run(path, "--quiet", "--final", "--markets", "DOT/USDT")
    assert {line["symbol"]: line["market"] for line in lines}["DOTUSDT"] == "DOT/USDT"


def depth(first: int, final: int, bid: str = "100", size: str = "1") -> bytes:
    data = {"e": "depthUpdate", "E": 1, "s": "BTCUSDT", "U": first, "u": final}
    data |= {"b": [[bid, size]], "a": []}
    return orjson.dumps({"stream": "btcusdt@depth@100ms", "data": data})


def top(update_id: int, bid: str, size: str) -> bytes:
    data = {"u": update_id, "s": "BTCUSDT", "b": bid, "B": size, "a": "101", "A": "1"}
    return orjson.dumps({"stream": "btcusdt@bookTicker", "data": data})


def test_a_wrong_book_and_a_gap_are_reported(tmp_path: Path) -> None:
    snapshot = {"lastUpdateId": 10, "bids": [["99", "1"]], "asks": [["101", "1"]]}
    writer = FeedWriter(tmp_path / "x.feed.zst", {"exchange": "binance"})
    writer.write(1, "<", "", depth(10, 11))
    answer = orjson.dumps(snapshot)
    writer.write(2, "GET", "/api/v3/depth?symbol=BTCUSDT&limit=1000", answer)
    writer.write(3, "<", "", top(11, "100", "1"))
    writer.write(4, "<", "", depth(12, 12, "100", "2"))
    writer.write(5, "<", "", top(12, "100", "3"))
    writer.write(6, "<", "", depth(15, 15, "98", "1"))
    writer.close()
    lines, code = run(tmp_path / "x.feed.zst", "--check", "--quiet")
    assert code == 1
    assert lines == [
        {
            "feed": "x.feed.zst",
            "updates": 2,
            "matches": 1,
            "mismatches": 1,
            "unchecked": 0,
            "gaps": 1,
            "crossed": 0,
            "malformed": 0,
        }
    ]


def partial(update_id: int, bid: str, size: str, asks: int = 5) -> bytes:
    levels = [[str(101 + i), "1"] for i in range(asks)]
    data = {"lastUpdateId": update_id, "bids": [[bid, size], ["90", "1"]], "asks": levels}
    return orjson.dumps({"stream": "ethusdt@depth5@100ms", "data": data})


def test_partial_books_are_separate_books(tmp_path: Path) -> None:
    """Each frame is the whole book; a symbol that has updates too is rebuilt from those."""
    writer = FeedWriter(tmp_path / "x.feed.zst", {"exchange": "binance"})
    writer.write(1, "<", "", partial(10, "99", "1"))
    writer.write(2, "<", "", top(11, "100", "2").replace(b"BTC", b"ETH").replace(b"btc", b"eth"))
    writer.write(3, "<", "", partial(11, "100", "2"))
    writer.write(4, "<", "", partial(12, "100", "2", 3))
    writer.write(5, "<", "", depth(10, 11))
    writer.write(6, "<", "", partial(11, "5", "5").replace(b"eth", b"btc"))
    writer.close()
    lines, code = run(tmp_path / "x.feed.zst", "--final", "--check")
    assert code == 0
    updates = [line for line in lines if "recv_ns" in line]
    assert [(line["update_id"], line["best_bid"], line["asks"]) for line in updates] == [
        (10, 99.0, 5),
        (11, 100.0, 5),
        (12, 100.0, 3),
    ]
    assert {line["market"] for line in updates} == {"ETH/USDT"}
    (eth,) = (line for line in lines if line.get("symbol") == "ETHUSDT")
    assert eth["update_id"] == 12
    assert eth["bids"] == [[100.0, 2.0], [90.0, 1.0]]
    assert (lines[-1]["matches"], lines[-1]["unchecked"], lines[-1]["mismatches"]) == (2, 1, 0)


def test_a_best_price_that_arrives_after_its_update_is_still_compared() -> None:
    result = Checked()
    wrong: list[dict[str, object]] = []
    check = TopCheck(result, wrong.append)
    check.update(5, (1, 1, 2, 1), {})
    check.top(4, (1, 9, 2, 1))
    check.top(5, (1, 1, 2, 1))
    assert result.matches == 0, "a later event for the same id may still come"
    check.top(6, (1, 2, 2, 1))
    assert (result.matches, result.mismatches) == (1, 0)
    check.update(6, (1, 7, 2, 1), {"update_id": 6})
    check.end()
    assert wrong == [{"update_id": 6, "expected": (1, 2, 2, 1), "expected_id": 6}]


@pytest.mark.parametrize("text", ["", "nonsense\n", "#coinspace-feed 9 {}\n"])
def test_a_file_that_is_not_a_feed_is_a_clear_error(tmp_path: Path, text: str) -> None:
    path = tmp_path / "x.feed"
    path.write_text(text)
    result = CliRunner().invoke(books, [str(path)])
    assert "feed" in str(result.exception)
