"""The feed file: exact payloads, torn ends, clear errors, seeking."""

import os
import tracemalloc
from pathlib import Path

import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from coinspace.errors import FeedError
from coinspace.recording import lines
from coinspace.recording.blocks import walk
from coinspace.recording.format import FeedReader, FeedWriter, Record, decode_line, encode_line
from coinspace.recording.merge import merge
from coinspace.recording.tools import summarise

HEADER = b'#coinspace-feed 1 {"exchange":"x"}\n'


def write(path: Path, n: int, step_ns: int = 10**8, exchange: str = "upbit") -> Path:
    with FeedWriter(path, {"exchange": exchange, "url": "wss://x"}) as writer:
        for i in range(n):
            writer.write(i * step_ns + 1, "<", "", b'{"n":%d}' % i)
    return path


def read(path: Path) -> list[Record]:
    with FeedReader(path) as reader:
        return list(reader)


@given(
    st.binary(max_size=200),
    st.sampled_from(["<", ">", "GET"]),
    st.integers(min_value=0, max_value=2**63 - 1),
)
def test_any_payload_survives(payload: bytes, direction: str, received_ns: int) -> None:
    path = "/api/v3/depth?symbol=BTCUSDT" if direction == "GET" else ""
    record = Record(received_ns, direction, path, payload)
    line = encode_line(record)
    assert line.count(b"\n") == 1
    assert decode_line(line[:-1]) == record


def test_the_written_form_is_the_documented_one(tmp_path: Path) -> None:
    path = tmp_path / "x.feed.zst"
    with FeedWriter(path, {"exchange": "binance"}) as writer:
        writer.write(5, "<", "", b'{"a":1}')
        writer.write(4, "GET", "/api?x=1", b"{}")
        writer.write(6, "!", "", b'{"mark":"gap","symbol":"BTCUSDT"}')
    text = zstandard.ZstdDecompressor().stream_reader(path.read_bytes()).read()
    assert text.splitlines() == [
        b'#coinspace-feed 1 {"exchange":"binance"}',
        b'5 < {"a":1}',
        b"5 GET /api?x=1 {}",
        b'6 ! {"mark":"gap","symbol":"BTCUSDT"}',
    ]


def test_blocks_end_after_1000_records_or_a_second(tmp_path: Path) -> None:
    assert len(list(walk(write(tmp_path / "a.feed.zst", 3000, 1)))) == 4
    assert len(list(walk(write(tmp_path / "b.feed.zst", 100, 10**8)))) == 10


def test_a_file_cut_anywhere_gives_back_every_whole_block(tmp_path: Path) -> None:
    path = write(tmp_path / "x.feed.zst", 5000, 10**6)
    data, whole = path.read_bytes(), read(path)
    blocks = list(walk(path))
    ends = [*(block.offset for block in blocks[1:]), len(data)]
    for at in range(blocks[1].offset, len(data), 1733):
        path.write_bytes(data[:at])
        with FeedReader(path) as reader:
            found = list(reader)
            cut_at_block = any(block.offset == at for block in blocks)
            assert reader.torn is not cut_at_block
        assert found == whole[: len(found)]
        complete = sum(end <= at for end in ends)
        # the first block contains the header, too
        assert len(found) >= (complete - 1) * 999


def test_flushed_records_survive_without_close(tmp_path: Path) -> None:
    writer = FeedWriter(tmp_path / "x.feed.zst", {"exchange": "upbit"})
    writer.write(1, "<", "", b"first")
    writer.flush()
    writer.write(2, "<", "", b"lost")
    assert [record.payload for record in read(tmp_path / "x.feed.zst")] == [b"first"]
    writer.close()


@pytest.mark.parametrize(
    ("lines", "expected"),
    [
        (b"", "expected '#coinspace-feed 1"),
        (b"#coinspace-feed 9 {}\n", "expected feed version 1, was b'9'"),
        (b"#coinspace-feed 1 {]\n", "expected a JSON header"),
        (b"#coinspace-feed 1 {}\n", "expected a header with an exchange"),
        (b'#coinspace-feed 1 {"exchange":"x"}\nnonsense\n', "line 2: expected 'TIME DIRECTION"),
        (b'#coinspace-feed 1 {"exchange":"x"}\n1 ? a\n', "line 2: expected a direction"),
        (b'#coinspace-feed 1 {"exchange":"x"}\n1 GET a\n', "line 2: expected 'GET /PATH"),
        (b'#coinspace-feed 1 {"exchange":"x"}\n1 <64 !\n', "line 2: expected base64"),
        (b'#coinspace-feed 1 {"exchange":"x"}\n5 < a\n4 < b\n', "line 3: expected a receive time"),
        (HEADER[:-1], "was no line"),
        (b'#coinspace-feed 1 {"exchange":"../x"}\n', "expected the name of an exchange"),
        (b'#coinspace-feed 1 {"exchange":"x","started_ns":"1"}\n', "expected started_ns in ns"),
        (b'#coinspace-feed 1 {"exchange":"x","url":[]}\n', "expected the URL"),
        (HEADER + b"9" * 30 + b" < a\n", "line 2: expected 'TIME DIRECTION PAYLOAD', TIME in ns"),
        (HEADER + b"9" * 5000 + b" < a\n", "line 2: expected 'TIME DIRECTION PAYLOAD'"),
        (HEADER + b"9223372036854775808 < a\n", "line 2: expected 'TIME DIRECTION PAYLOAD'"),
        (HEADER + b"1 GET /\xff a\n", "line 2: expected a path in UTF-8"),
        (HEADER + b"1 ! []\n", "line 2: expected a mark as a JSON object"),
        (HEADER + b"1 ! {\n", "line 2: expected a mark as a JSON object"),
        (HEADER + b"1 < a\n" + HEADER + b"2 < b\n", "line 3: expected a record, was the header"),
        (b"\xef\xbb\xbf" + HEADER, "byte order mark"),
        ((HEADER.decode()).encode("utf-16"), "UTF-16"),
        (HEADER.replace(b"\n", b"\r\n"), "expected lines that end with LF, was CR LF"),
        (b"\x1f\x8b\x08" + HEADER, "gzip"),
        (b"PAR1" + HEADER, "Parquet"),
    ],
)
def test_errors_have_the_line_and_the_expected_text(
    tmp_path: Path, lines: bytes, expected: str
) -> None:
    path = tmp_path / "bad.feed"
    path.write_bytes(lines)
    with pytest.raises(FeedError) as caught:
        read(path)
    assert expected in str(caught.value)
    assert str(path) in str(caught.value)


def test_damage_in_the_middle_is_an_error(tmp_path: Path) -> None:
    path = write(tmp_path / "x.feed.zst", 3000, 1)
    data = bytearray(path.read_bytes())
    second = list(walk(path))[1]
    data[second.offset : second.offset + 4] = b"oops"
    path.write_bytes(bytes(data))
    with pytest.raises(FeedError, match="expected a zstd frame"):
        read(path)


def test_every_flipped_bit_of_a_recording_is_found(tmp_path: Path) -> None:
    path = write(tmp_path / "x.feed.zst", 40, 10**8)
    data, whole = path.read_bytes(), read(path)
    found = 0
    for at in range(len(data)):
        for bit in range(8):
            changed = bytearray(data)
            changed[at] ^= 1 << bit
            path.write_bytes(changed)
            try:
                with FeedReader(path) as reader:
                    summary = summarise(reader, check=True)
            except FeedError:
                found += 1
                continue
            # a few bits of a zstd frame have no meaning
            assert summary.n_errors or read(path) == whole, (at, bit)
            found += bool(summary.n_errors)
    assert found > 0.99 * 8 * len(data)


def test_a_recording_without_checksums_is_read_and_reported(tmp_path: Path) -> None:
    path = tmp_path / "old.feed.zst"
    old = zstandard.ZstdCompressor(level=3)
    path.write_bytes(old.compress(HEADER + b"1 < a\n") + old.compress(b"2 < b\n"))
    with FeedReader(path) as reader:
        assert [record.payload for record in reader] == [b"a", b"b"]
        assert reader.unchecked_blocks() == (2, 2)
    with FeedReader(write(tmp_path / "new.feed.zst", 30)) as reader:
        assert reader.unchecked_blocks() == (0, 3)
    (tmp_path / "plain.feed").write_bytes(HEADER + b"1 < a\n")
    with FeedReader(tmp_path / "plain.feed") as reader:
        assert reader.unchecked_blocks() == (1, 1)


@pytest.mark.parametrize(
    "unit",
    [b"a" * (1 << 20), (b"1 < {" + b" " * 250 + b"}\n") * (1 << 12)],
    ids=["line", "records"],
)
def test_a_file_that_inflates_without_end_is_refused_within_bounds(
    tmp_path: Path, unit: bytes
) -> None:
    path = tmp_path / "bomb.feed.zst"
    frame = zstandard.ZstdCompressor(level=1).compressobj()
    with path.open("wb") as file:
        file.write(frame.compress(HEADER + b"1 < "))
        for _ in range(300):
            file.write(frame.compress(unit))
        file.write(frame.flush())
    tracemalloc.start()
    try:
        with (
            pytest.raises(FeedError, match="decompresses to more than"),
            FeedReader(path) as reader,
        ):
            for _ in reader:
                pass
        assert tracemalloc.get_traced_memory()[1] < 200 << 20
    finally:
        tracemalloc.stop()


def test_empty_lines_need_no_more_memory_than_other_bytes(tmp_path: Path) -> None:
    path = tmp_path / "empty.feed.zst"
    # enough bytes that do not compress, so that the empty lines are not refused for their number
    noise = b"".join(b"1 < %b\n" % os.urandom(500).hex().encode() for _ in range(200))
    path.write_bytes(zstandard.compress(HEADER + noise + b"\n" * (60 << 20)))
    tracemalloc.start()
    try:
        with pytest.raises(FeedError, match="expected 'TIME DIRECTION PAYLOAD'"):
            read(path)
        assert tracemalloc.get_traced_memory()[1] < 100 << 20
    finally:
        tracemalloc.stop()


def test_a_line_has_a_greatest_length(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lines, "LINE_LIMIT", 1000)
    (tmp_path / "x.feed").write_bytes(HEADER + b"1 < " + b"a" * 1001 + b"\n")
    # a part that holds a whole line may be as large as a read
    monkeypatch.setattr(lines, "READ_SIZE", 100)
    with pytest.raises(FeedError, match="expected lines of 1000 bytes at most"):
        read(tmp_path / "x.feed")


def test_only_a_file_is_read(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path, tmp_path / "pipe", Path("/dev/zero"), tmp_path / "none", Path("a\0b")):
        with pytest.raises(FeedError, match="expected a readable file"):
            FeedReader(path)


def test_seeking_skips_blocks_and_gives_the_same_records(tmp_path: Path) -> None:
    path = write(tmp_path / "x.feed.zst", 20_000, 10**7)
    whole = read(path)
    for start in (0, 1, 5_000, 12_345, 19_999, 20_000):
        start_ns = start * 10**7 + 1
        with FeedReader(path, start_ns=start_ns, end_ns=start_ns + 10**9) as reader:
            found = list(reader)
            assert found == whole[start : start + 100]
            if start > 10_000:
                assert reader.line < 3_000  # lines counted from a block near the start


def test_merge_is_stable_and_ordered(tmp_path: Path) -> None:
    a = write(tmp_path / "a.feed.zst", 50, 3)
    b = write(tmp_path / "b.feed.zst", 50, 2, "bithumb")
    with FeedReader(a) as first, FeedReader(b) as second:
        found = [(reader.exchange, r.received_ns) for reader, r in merge([first, second])]
    assert [ns for _, ns in found] == sorted(ns for _, ns in found)
    assert len(found) == 100
    assert found[:3] == [("upbit", 1), ("bithumb", 1), ("bithumb", 3)]


def test_recordings_are_readable(feeds: Path) -> None:
    counts = {path.name: len(read(path)) for path in sorted(feeds.glob("*.feed.zst"))}
    assert counts["binance-btcusdt-20240808.feed.zst"] == 41_249
    assert counts["upbit-9-codes-20210405.feed.zst"] == 1_734
