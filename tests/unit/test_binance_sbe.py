"""Binance's binary streams: frames, bad frames, the key, subscriptions, recordings."""

import base64
import json
import struct
from pathlib import Path
from typing import Any

import orjson
import pytest
from pydantic import SecretStr, ValidationError

from benchmarks import frames as generated
from coinspace._ext.binance_sbe import REFUSALS
from coinspace._ext.parser import Parser
from coinspace.config import load
from coinspace.config_file import masked
from coinspace.errors import ConfigError
from coinspace.exchanges import binance, binance_sbe
from coinspace.exchanges.exchange import NOTHING, Channel
from coinspace.exchanges.settings import ExchangeSettings
from coinspace.recording.decode import plain_frame
from coinspace.recording.format import Record, decode_line, encode_line
from coinspace.simulator.session import SIMULATED_KEY, BinanceSession

KEY = "the-secret-key-0123456789"
DIFF = generated.frames("binance-sbe-diff", 1)[0]
TRADE = generated.frames("binance-sbe-trade", 1)[0]
TOP = generated.frames("binance-sbe-top", 1)[0]
# places within a diff: the head of the bids and of its first level
GROUP = 8 + 26
LEVEL = GROUP + 4


def parser() -> Parser:
    found: Parser = binance.parser(100, ["BTC/USDT"])
    return found


def changed(frame: bytes, place: int, kind: str, value: int) -> bytes:
    data = bytearray(frame)
    struct.pack_into("<" + kind, data, place, value)
    return bytes(data)


def settings(**options: Any) -> ExchangeSettings:
    update = {"format": "sbe", "api_key": SecretStr(KEY), **options}
    return binance.SETTINGS.model_copy(update=update)


# frames


def test_every_sample_has_its_expected_values(feeds: Path) -> None:
    folder = feeds / "frames-more"
    lines, rows = (
        [json.loads(line) for line in (folder / f"{name}.ndjson").read_text().splitlines()]
        for name in ("binance_sbe", "expected")
    )
    expected = {row["line"]: row["expected"] for row in rows if row["file"].startswith("binance_s")}
    assert len(lines) == len(expected) == 6
    for number, line in enumerate(lines, 1):
        frame, want = bytes.fromhex(line["hex"]), expected[number]
        messages = parser().decode(frame)
        assert {one["symbol"] for one in messages} == {want["symbol"]}
        time_us = want.get("transact_time_us", want.get("event_time_us"))
        if time_us is not None:
            assert {one["exchange_ns"] for one in messages} == {time_us * 1000}
        if "trades" in want:
            assert [
                (one["trade_id"], one["price"], one["size"], one["side"]) for one in messages
            ] == [(id, float(p), float(q), side) for id, p, q, side in want["trades"]]
            continue
        (message,) = messages
        if "bid" in want:
            best = [message[name] for name in ("bid", "bid_size", "ask", "ask_size")]
            assert best == [float(text) for text in (*want["bid"], *want["ask"])]
            continue
        ids = message["first_update_id"], message["final_update_id"]
        assert ids == (want.get("U"), want.get("u", want.get("update_id")))
        for side in ("bids", "asks"):
            levels = [[float(p), float(q)] for p, q in want[side]]
            assert message[side] == levels


@pytest.mark.parametrize("kind", generated.BINARY_KINDS)
def test_both_formats_give_the_same(kind: str) -> None:
    for text, frame in zip(
        generated.frames(generated.BINARY_KINDS[kind]), generated.frames(kind), strict=True
    ):
        (ours,), (theirs,) = parser().decode(frame), parser().decode(text)
        # bookTicker has no time
        assert ours | {"exchange_ns": 0} == theirs | {"exchange_ns": 0}


@pytest.mark.parametrize("frame", [DIFF, TRADE, TOP], ids=["diff", "trade", "top"])
def test_a_frame_cut_anywhere_is_malformed(frame: bytes) -> None:
    for size in range(len(frame)):
        (message,) = parser().decode(frame[:size])
        assert message["kind"] == "malformed", size
        assert 0 <= message["offset"] <= size


BAD = {
    "schema 2": (changed(DIFF, 4, "H", 2), "schema", "ignored"),
    "unknown template": (changed(DIFF, 2, "H", 10004), "template", "ignored"),
    "block of 0": (changed(DIFF, 0, "H", 0), "block", "malformed"),
    "block of 65535": (changed(DIFF, 0, "H", 65535), "short", "malformed"),
    "level block of 0": (changed(DIFF, GROUP, "H", 0), "group", "malformed"),
    "level block of 65535": (changed(DIFF, GROUP, "H", 65535), "group", "malformed"),
    "more levels than bytes": (changed(DIFF, GROUP + 2, "H", 65535), "group", "malformed"),
    "more trades than bytes": (changed(TRADE, 28, "I", 2**32 - 1), "group", "malformed"),
    "exponent 23": (changed(DIFF, 32, "b", 23), "exponent", "malformed"),
    "exponent -128": (changed(DIFF, 33, "b", -128), "exponent", "malformed"),
    "null price": (changed(DIFF, LEVEL, "q", -(2**63)), "value", "malformed"),
    "negative price": (changed(DIFF, LEVEL, "q", -1), "level", "malformed"),
    "negative size": (changed(DIFF, LEVEL + 8, "q", -1), "level", "malformed"),
    "null id": (changed(DIFF, 16, "q", -(2**63)), "value", "malformed"),
    "negative time": (changed(TOP, 8, "q", -1), "value", "malformed"),
    "time that overflows": (changed(TOP, 8, "q", 2**62), "value", "malformed"),
    "flag 2": (changed(TRADE, 32 + 24, "B", 2), "value", "malformed"),
    "empty symbol": (changed(TOP, 58, "B", 0), "symbol", "malformed"),
    "symbol beyond the frame": (changed(TOP, 58, "B", 255), "short", "malformed"),
    "symbol that is not UTF-8": (TOP[:-1] + b"\xff", "symbol", "malformed"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_frames_are_counted_by_reason(name: str) -> None:
    frame, reason, kind = BAD[name]
    one = parser()
    (message,) = one.decode(frame)
    assert message["kind"] == kind
    assert one.refusals() == {**dict.fromkeys(REFUSALS, 0), reason: 1}
    # the next frame is read as if nothing had been
    assert one.decode(DIFF) == parser().decode(DIFF)


def test_later_versions_may_append_fields_anywhere() -> None:
    (plain,) = parser().decode(DIFF)
    root = changed(DIFF[:GROUP] + b"\x01\x02\x03" + DIFF[GROUP:], 0, "H", 29)
    step, count = struct.unpack_from("<HH", DIFF, GROUP)
    levels = [DIFF[LEVEL + n * step : LEVEL + (n + 1) * step] for n in range(count)]
    wider = DIFF[:GROUP] + struct.pack("<HH", 20, count)
    wider += b"".join(level + b"\xff" * 4 for level in levels) + DIFF[LEVEL + step * count :]
    for frame in (root, wider, DIFF + b"more", changed(DIFF, 6, "H", 7)):
        assert parser().decode(frame) == [plain]


def test_values_are_rounded_once() -> None:
    for mantissa in (1, 2**53 - 1, 2**53 + 1, 2**60 + 1, 2**63 - 1, 9007199254740993):
        for power in (-22, -19, -8, -1, 0, 1, 22):
            best = mantissa, 1, mantissa, 1
            frame = binance_sbe.encode_best(1, 1, (power, 0), best, "X")
            assert parser().decode(frame)[0]["bid"] == float(f"{mantissa}e{power}")


# the key


def test_the_key_is_shown_nowhere(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COINSPACE_EXCHANGES__BINANCE__API_KEY", KEY)
    monkeypatch.setenv("COINSPACE_EXCHANGES__BINANCE__FORMAT", "sbe")
    loaded = load()
    chosen = loaded.exchanges["binance"]
    assert chosen.api_key.get_secret_value() == KEY
    shown = masked(loaded.model_dump(mode="json"))
    assert shown["exchanges"]["binance"]["api_key"] == "***"
    found = binance.subscriptions(chosen, ["orderbook"], ["BTCUSDT"])
    assert found[0].headers == ((binance_sbe.HEADER, KEY),)
    assert KEY not in repr(chosen) + repr(found) + str(loaded)


def test_a_key_that_cannot_be_a_header_is_refused_unseen() -> None:
    for text in ("two words", "line\r\nX-Other: 1", "schlüssel"):
        with pytest.raises(ValidationError) as error:
            binance.SETTINGS.model_copy().api_key = SecretStr(text)
        assert text not in error.value.json(include_input=False)


def test_a_key_is_never_sent_in_the_clear(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COINSPACE_EXCHANGES__BINANCE__API_KEY", KEY)
    for address, good in (
        ("ws://127.0.0.1:9000/binance", True),
        ("ws://[::1]:9000/binance", True),
        ("wss://example.com", True),
        ("ws://example.com", False),
        ("ws://10.0.0.1", False),
    ):
        monkeypatch.setenv("COINSPACE_EXCHANGES__BINANCE__WEBSOCKET", address)
        if good:
            load()
            continue
        with pytest.raises(ConfigError, match="wss://") as error:
            load()
        assert KEY not in str(error.value)


def test_only_an_exchange_with_sbe_takes_the_format(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COINSPACE_EXCHANGES__UPBIT__FORMAT", "sbe")
    with pytest.raises(ConfigError, match=r"exchanges\.upbit\.format"):
        load()


# subscriptions


def test_subscriptions() -> None:
    names = [f"A{number}USDT" for number in range(1200)]
    first, second = binance.subscriptions(settings(), ["orderbook"], names)
    assert first.url.startswith(f"{binance_sbe.HOST}/stream?streams=a0usdt@depth/a1usdt@depth/")
    assert len(first.symbols) == 1000
    assert len(first.frames) == 9
    assert second.symbols == tuple(names[1000:])
    assert second.fallback is not None
    assert second.fallback.url.startswith("wss://stream.binance.com:9443/stream?streams=a1000usdt@")
    assert second.fallback.symbols == second.symbols
    assert not second.fallback.headers


def test_tickers_come_in_json_beside_the_trades() -> None:
    channels: list[Channel] = ["ticker", "trade"]
    trades, tickers = binance.subscriptions(settings(), channels, ["BTCUSDT"])
    assert trades.url == f"{binance_sbe.HOST}/stream?streams=btcusdt@trade"
    assert not trades.aside
    assert "/stream?streams=btcusdt@ticker&" in tickers.url
    assert tickers.aside
    assert not tickers.headers


def test_without_a_key_the_format_is_json() -> None:
    (one,) = binance.subscriptions(settings(api_key=SecretStr("")), ["orderbook"], ["BTCUSDT"])
    assert "depth@100ms" in one.url
    assert not one.headers


@pytest.mark.parametrize(
    ("options", "address"),
    [
        ({}, "wss://stream-sbe.binance.com:9443"),
        ({"websocket": "ws://127.0.0.1:1/binance"}, "ws://127.0.0.1:1/binance/sbe"),
        ({"sbe_websocket": "wss://x.example/ws/"}, "wss://x.example"),
    ],
)
def test_addresses(options: dict[str, str], address: str) -> None:
    (one,) = binance.subscriptions(settings(**options), ["orderbook"], ["BTCUSDT"])
    assert one.url.startswith(f"{address}/stream?streams=")


def test_the_simulated_exchange_refuses_other_keys() -> None:
    for headers, refused in (
        ({}, True),
        ({binance_sbe.HEADER: "wrong"}, True),
        ({binance_sbe.HEADER: SIMULATED_KEY}, False),
    ):
        refusal = BinanceSession.refusal("/sbe/stream", headers, {SIMULATED_KEY})
        assert (refusal is not None) == refused
        assert BinanceSession.refusal("/stream", headers, {SIMULATED_KEY}) is None


# recordings


@pytest.mark.parametrize("frame", [DIFF, TRADE, TOP], ids=["diff", "trade", "top"])
def test_binary_frames_are_recorded_as_base64(frame: bytes) -> None:
    line = encode_line(Record(1, "<", "", frame))
    assert line.startswith(b"1 <64 ")
    assert line.isascii()
    assert decode_line(line[:-1]).payload == frame


def test_labels_and_ids() -> None:
    update = parser().decode(DIFF)[0]
    assert binance.label(DIFF) == (("depth@sbe",), "btcusdt", False)
    assert binance.ids_of(binance.label(DIFF), DIFF) == (
        b"%d" % update["first_update_id"],
        b"%d" % update["final_update_id"],
    )
    assert binance.label(TOP).kinds == ("bestBidAsk@sbe",)
    assert binance.ids_of(binance.label(TOP), TOP) is None
    for name in ("schema 2", "more trades than bytes", "symbol beyond the frame"):
        assert binance.label(BAD[name][0]) == NOTHING


def test_a_recorded_book_takes_both_formats() -> None:
    snapshot = orjson.dumps({"lastUpdateId": 1, "bids": [["5.0", "1.0"]], "asks": []})
    answers = []
    for kind in ("binance-diff", "binance-sbe-diff"):
        book = binance.LocalBook()
        assert book.restart(snapshot)
        for frame in generated.frames(kind, 8):
            book.apply(frame)
        answers.append(orjson.loads(book.answer(1000)))
    assert answers[0] == answers[1]
    assert len(answers[0]["bids"]) > 10


def test_recorded_trades_answer_rest_in_both_formats() -> None:
    rows = [
        binance.rest_trades(generated.frames(kind, 5))
        for kind in ("binance-trade", "binance-sbe-trade")
    ]
    assert rows[0] == rows[1]
    assert len(rows[0]) == 5


def test_lines_of_binary_frames() -> None:
    for line in (
        DIFF.hex().encode(),
        DIFF.hex().upper().encode() + b"\r",
        base64.b64encode(DIFF),
        b'{"hex":"%b"}' % DIFF.hex().encode(),
    ):
        assert plain_frame(line) == DIFF
    for line in (b"", b"[]", b'{"e":"trade"}', b"null", b"12345", b'{"hex":5}'):
        assert plain_frame(line) == line
