"""The `decode` command: its input, its output and its end."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import orjson
import pytest
import zstandard

from coinspace.exchanges import exchange
from coinspace.recording.decode import Decoder

ROOT = Path(__file__).resolve().parents[2]
TOP = (
    b'{"stream":"btcusdt@bookTicker","data":{"u":1,"s":"BTCUSDT","b":"1","B":"2","a":"3","A":"4"}}'
)
ACK = b'{"result":null,"id":1}'


def run(
    *arguments: str | Path, stdin: bytes = b"", cwd: Path = ROOT
) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(
        [sys.executable, "-m", "coinspace", "decode", *map(str, arguments)],
        input=stdin,
        capture_output=True,
        cwd=cwd,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        timeout=60,
        check=False,
    )


def lines(done: subprocess.CompletedProcess[bytes]) -> list[dict[str, Any]]:
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


def feed(*frames: bytes) -> bytes:
    records = b"".join(b"%d < %s\n" % (i, frame) for i, frame in enumerate(frames))
    return b'#coinspace-feed 1 {"exchange": "binance"}\n0 > [1]\n1 GET /api/v3/depth {}\n' + records


def test_frames_on_stdin() -> None:
    done = run("binance", stdin=TOP + b"\n\n" + ACK + b"\r\n" + ACK[:-1])
    assert [line["kind"] for line in lines(done)] == ["top", "malformed", "control", "malformed"]
    assert lines(done)[0] == {
        "kind": "top",
        "exchange": "binance",
        "market": "BTC/USDT",
        "symbol": "BTCUSDT",
        "exchange_ns": None,
        "update_id": 1,
        "bid": 1.0,
        "bid_size": 2.0,
        "ask": 3.0,
        "ask_size": 4.0,
    }
    assert (
        done.stderr == b"4 frames: 1 control, 2 malformed, 1 top; 2 malformed, 0 levels dropped\n"
    )


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("piped", [False, True])
def test_feeds_packed_or_not(tmp_path: Path, packed: bool, piped: bool) -> None:
    # two Zstandard frames in one file, as a recorder that rotates its frames writes it
    compress = zstandard.ZstdCompressor().compress
    parts = feed(TOP, ACK), feed(ACK)
    content = b"".join(compress(part) if packed else part for part in parts)
    path = tmp_path / "x.feed.zst"
    path.write_bytes(content)
    done = run("binance", stdin=content) if piped else run("binance", path)
    assert [line["kind"] for line in lines(done)] == ["top", "control", "control"]


def test_markets_name_symbols(tmp_path: Path) -> None:
    other = TOP.replace(b"BTCUSDT", b"BNBBTC")
    named = lines(run("binance", "--markets", "BNB/BTC,ETH/BTC", stdin=other))
    assert named[0]["market"] == "BNB/BTC"
    assert lines(run("binance", stdin=other))[0]["market"] is None
    config = tmp_path / "c.toml"
    config.write_text('[exchanges.binance]\nmarkets = ["BNB/BTC"]\n')
    assert lines(run("binance", "--config", config, stdin=other))[0]["market"] == "BNB/BTC"


def test_errors_are_one_line(tmp_path: Path) -> None:
    for arguments, text in (
        (["binance", "--markets", "btcusdt"], b"expected BASE/QUOTE"),
        (["binance", tmp_path / "none"], b"No such file"),
        (["binance", "--config", tmp_path / "none"], b"expected a file"),
    ):
        done = run(*arguments)
        assert done.returncode == 1
        assert text in done.stderr
    damaged = tmp_path / "damaged"
    damaged.write_bytes(b"\x28\xb5\x2f\xfd" + b"\xff" * 40)
    done = run("upbit", damaged)
    assert done.returncode == 1
    assert b"expected a zstd frame" in done.stderr
    assert run("kraken").returncode == 2


def test_output_comes_while_input_is_open() -> None:
    with subprocess.Popen(
        [sys.executable, "-m", "coinspace", "decode", "binance"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        for _ in range(3):
            process.stdin.write(ACK + b"\n")
            process.stdin.flush()
            assert json.loads(process.stdout.readline())["name"] == "ack"
        process.stdin.close()
        assert process.wait(60) == 0


def test_a_message_that_is_nested_deep_is_one_line() -> None:
    deep = b'{"type":"error","message":%s}' % (b"[" * 1000 + b"]" * 1000)
    lines = Decoder(exchange("coinbase").parser(10)).lines([deep, b'{"type":"error","reason":"x"}'])
    first, second = map(orjson.loads, lines.splitlines())
    assert first["detail"] == "nested too deep to be shown"
    assert second["detail"]["reason"] == "x"


def test_a_reader_that_leaves_is_no_error() -> None:
    decode = f"{sys.executable} -m coinspace decode binance"
    done = subprocess.run(
        f"yes '{ACK.decode()}' | head -200000 | {decode} | head -1",
        shell=True,
        capture_output=True,
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        timeout=60,
        check=False,
    )
    assert done.stdout.count(b"\n") == 1
    assert b"Error" not in done.stderr
