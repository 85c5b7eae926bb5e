"""`coinspace feed`: contents of recordings, parts, sums, Parquet."""

import contextlib
import os
import resource
import subprocess
import sys
from pathlib import Path

import orjson
import pytest
from click.testing import CliRunner, Result

from coinspace.errors import FeedError
from coinspace.exchanges.binance import LocalBook
from coinspace.recording.commands import feed
from coinspace.recording.format import FeedReader, FeedWriter, Record
from coinspace.recording.frames import snapshot_symbol
from coinspace.recording.tools import merge_feeds
from coinspace.simulator.markets.engine import DEFAULT_MARKETS
from coinspace.simulator.simulated_feed import write_feeds


@pytest.fixture(scope="module")
def simulated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("simulated")
    list(write_feeds(folder / "sim.feed.zst", 4, DEFAULT_MARKETS, duration_s=10))
    return folder


def run(*arguments: object) -> Result:
    return CliRunner().invoke(feed, [str(one) for one in arguments])


def read(path: Path) -> list[Record]:
    with FeedReader(path) as reader:
        return list(reader)


def test_info_of_the_recordings(feeds: Path) -> None:
    result = run("info", "--json", feeds / "binance-btcusdt-20240808.feed.zst")
    facts = orjson.loads(result.output)
    assert facts["records"] == {"<": 41_248, "GET": 1}
    frames = {(one["kind"], one["symbol"]): one["frames"] for one in facts["frames"]}
    assert frames["depth@100ms", "btcusdt"] == 3451
    assert frames["trade", "btcusdt"] == 9757
    assert facts["gaps"] == 0
    assert 345 < facts["duration_s"] < 347
    result = run("info", feeds / "upbit-9-codes-20210405.feed.zst")
    assert "orderbook KRW-BAT" in result.output


def test_verify_accepts_what_the_simulator_wrote(simulated: Path) -> None:
    result = run("verify", *sorted(simulated.iterdir()))
    assert result.exit_code == 0, result.output
    assert result.output.count(": ok") == 3


def test_verify_finds_gaps_bad_frames_and_torn_ends(simulated: Path, tmp_path: Path) -> None:
    records = read(simulated / "sim-binance.feed.zst")
    path = tmp_path / "gap.feed.zst"
    with FeedWriter(path, {"exchange": "binance"}) as writer:
        depths = 0
        for record in records:
            depths += b"@depth" in record.payload[:40]
            if depths != 50 or b"@depth" not in record.payload[:40]:
                writer.write(*record)
        writer.write(records[-1].received_ns, "<", "", b'{"cut":')
    result = run("verify", "--json", path)
    facts = orjson.loads(result.output)
    assert result.exit_code == 1
    assert (facts["ok"], facts["gaps"], facts["n_errors"]) == (False, 1, 1)
    path.write_bytes(path.read_bytes()[:-20])
    result = run("verify", path)
    assert "the end is cut" in result.output
    (tmp_path / "none.feed.zst").write_bytes(b"")
    assert run("verify", tmp_path / "none.feed.zst").exit_code == 1


def test_a_disconnect_starts_the_ids_anew(tmp_path: Path) -> None:
    path = tmp_path / "x.feed.zst"
    frame = b'{"stream":"btcusdt@depth@100ms","data":{"e":"depthUpdate","U":%d,"u":%d}}'
    with FeedWriter(path, {"exchange": "binance"}) as writer:
        writer.write(1, "<", "", frame % (1, 5))
        writer.write(2, "!", "", b'{"mark":"disconnect","reason":"reset"}')
        writer.write(3, "<", "", frame % (50, 60))
    assert run("verify", path).exit_code == 0


@pytest.mark.parametrize(
    "text", ["1700000000", "1700000000000", "1700000000000000", "-5", "nan", "inf", "1e30", ""]
)
def test_a_moment_in_another_unit_is_refused(simulated: Path, tmp_path: Path, text: str) -> None:
    source, target = simulated / "sim-upbit.feed.zst", tmp_path / "cut.feed.zst"
    for option in ("--from", "--to"):
        result = run("cut", source, target, option, text)
        assert "expected seconds after the start" in str(result.exception)
    assert not target.exists()


def test_a_cut_begins_with_the_book_of_its_moment(simulated: Path, tmp_path: Path) -> None:
    source, target = simulated / "sim-binance.feed.zst", tmp_path / "cut.feed.zst"
    result = run("cut", source, target, "--from", "4", "--to", "7", "--symbol", "BTCUSDT")
    assert result.exit_code == 0, result.output
    records = read(target)
    assert snapshot_symbol("binance", records[0]) == "BTCUSDT"
    assert all(b"btcusdt" in r.payload[:30] for r in records[1:])
    books = []
    for part in (read(source), records):
        book = LocalBook()
        for record in part:
            if snapshot_symbol("binance", record) == "BTCUSDT":
                book.restart(record.payload)
            elif b"btcusdt@depth" in record.payload[:40]:
                if record.received_ns > records[-1].received_ns:
                    break
                book.apply(record.payload)
        books.append(orjson.loads(book.answer(50)))
    assert books[0] == books[1]
    assert run("cut", source, target).exception is not None


@pytest.mark.parametrize(
    ("query", "symbol"),
    [
        ("symbol=BTCUSDT&limit=5000", "BTCUSDT"),
        ("symbol=BTCUSDT", "BTCUSDT"),
        ("limit=99&symbol=BTCUSDT", None),
        ("symbol=BTCUSDT&limit=5", None),
    ],
)
def test_the_answer_of_a_comparison_is_no_snapshot(query: str, symbol: str | None) -> None:
    record = Record(1, "GET", f"/api/v3/depth?{query}", b"{}")
    assert snapshot_symbol("binance", record) == symbol


def test_merge_joins_segments_of_one_exchange(simulated: Path, tmp_path: Path) -> None:
    source = simulated / "sim-upbit.feed.zst"
    first, second, whole = (tmp_path / f"{name}.feed.zst" for name in ("a", "b", "c"))
    run("cut", source, first, "--to", "5")
    run("cut", source, second, "--from", "5")
    assert run("merge", second, first, whole).exit_code == 0
    assert read(whole) == read(source)
    with pytest.raises(FeedError, match="expected feeds of one exchange"):
        merge_feeds([source, simulated / "sim-bithumb.feed.zst"], tmp_path / "d.feed.zst")


def test_parquet_and_back(simulated: Path, tmp_path: Path) -> None:
    parquet = pytest.importorskip("pyarrow.parquet")
    source = simulated / "sim-binance.feed.zst"
    assert run("convert", source, tmp_path / "x.parquet").exit_code == 0
    table = parquet.read_table(tmp_path / "x.parquet")
    assert table.num_rows == len(read(source))
    assert set(table["symbol"].to_pylist()) >= {"btcusdt", "ethusdt"}
    assert run("convert", tmp_path / "x.parquet", tmp_path / "y.feed.zst").exit_code == 0
    assert read(tmp_path / "y.feed.zst") == read(source)
    (tmp_path / "z.parquet").write_bytes(b"no")
    assert run("convert", tmp_path / "z.parquet", tmp_path / "w.feed.zst").exception is not None


@pytest.mark.parametrize("column", ["payload", "path", "direction"])
def test_a_parquet_file_that_repeats_a_large_text_is_refused(tmp_path: Path, column: str) -> None:
    """20 KB would become 2 GB in memory and in the recording."""
    pa, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    n, large = 20_000, "x" * 100_000
    columns = {"received_ns": list(range(1, n + 1)), "direction": ["<"] * n}
    columns |= {"path": [""] * n, "payload": [b"{}"] * n}
    text = large.encode() if column == "payload" else large
    columns[column] = pa.DictionaryArray.from_arrays(pa.array([0] * n), pa.array([text]))
    table = pa.table(columns).replace_schema_metadata({"coinspace-feed": b'{"exchange":"upbit"}'})
    parquet.write_table(table, tmp_path / "x.parquet", compression="zstd")
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    done = run("convert", tmp_path / "x.parquet", tmp_path / "x.feed.zst")
    assert isinstance(done.exception, FeedError)
    assert not (tmp_path / "x.feed.zst").exists()
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 500_000


def test_a_parquet_file_of_many_rows_of_nothing_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A megabyte can have billions of them, which would be written for days."""
    pa, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    n = 20_000
    columns = {"received_ns": [1] * n, "direction": ["<"] * n, "path": [""] * n}
    table = pa.table(columns | {"payload": [b""] * n})
    table = table.replace_schema_metadata({"coinspace-feed": b'{"exchange":"upbit"}'})
    parquet.write_table(table, tmp_path / "x.parquet", compression="zstd")
    # as large a file, but for fewer rows
    monkeypatch.setattr("coinspace.recording.parquet.FREE_BYTES", 1 << 10)
    monkeypatch.setattr("coinspace.recording.parquet.MOST_INFLATION", 10)
    done = run("convert", tmp_path / "x.parquet", tmp_path / "x.feed.zst")
    assert "decompresses to more than" in str(done.exception)
    assert not (tmp_path / "x.feed.zst").exists()


@pytest.mark.parametrize(
    ("command", "shown"),
    [
        (["feed", "cut"], "cut sim-binance"),
        (["feed", "merge"], "merge"),
        (["books", "--quiet"], "rebuild sim-binance"),
    ],
)
def test_long_work_shows_its_progress_on_a_terminal_only(
    simulated: Path, tmp_path: Path, command: list[str], shown: str
) -> None:
    source = str(simulated / "sim-binance.feed.zst")
    arguments = [sys.executable, "-m", "coinspace", *command, source]
    if command[0] == "feed":
        arguments.append(str(tmp_path / "target.feed.zst"))
    quiet = subprocess.run(arguments, capture_output=True, check=True)
    assert shown.encode() not in quiet.stderr
    (tmp_path / "target.feed.zst").unlink(missing_ok=True)
    ours, theirs = os.openpty()
    # a terminal, whatever runs the tests
    terminal = {**os.environ, "TERM": "xterm"}
    with subprocess.Popen(
        arguments, env=terminal, stdout=subprocess.PIPE, stderr=theirs
    ) as process:
        os.close(theirs)
        text = b""
        with contextlib.suppress(OSError):
            # reading fails once the other end is closed everywhere
            while part := os.read(ours, 65_536):
                text += part
        os.close(ours)
    assert process.returncode == 0
    assert shown.encode() in text
