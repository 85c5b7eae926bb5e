"""The feed file: what one connection received, one record per line, in zstd frames.

    #coinspace-feed 1 {"exchange": "binance", "url": "wss://…", "started_ns": 1723161253937085768}
    1723161253937085768 < {"stream":"btcusdt@depth@100ms","data":{…}}
    1723161254206652067 GET /api/v3/depth?symbol=BTCUSDT&limit=1000 {"lastUpdateId":…}
    1617646620613985000 > [{"ticket":"…"},…]
    1617646621613985000 ! {"mark":"disconnect","reason":"…"}

Directions: `<` received frame, `>` sent frame, `GET PATH` answer to a REST request, `!` mark
(JSON: "disconnect", "connect", "gap", "dropped"). A binary payload, or one with a line feed or with
bytes that are not UTF-8, is stored as base64 after the direction `<64` (`>64`, `GET64`).
Receive times are 64-bit nanoseconds since 1970 and never decrease.
Each zstd frame is independent: a file that is cut anywhere loses at most its last block. Each frame
ends with a checksum of its content, which reveals a changed bit. Files of earlier versions have no
checksums and can still be read.
"""

from __future__ import annotations

import base64
import binascii
import re
import stat
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import orjson
import zstandard

from coinspace.clock import SECOND_NS
from coinspace.errors import FeedError
from coinspace.recording.blocks import Block, walk
from coinspace.recording.lines import Inflated, Lines
from coinspace.text import is_binary

MAGIC = b"#coinspace-feed "
VERSION = 1
# a crash loses one block: small enough to lose little, large enough to compress by 4 to 5 times
BLOCK_RECORDS = 1000
BLOCK_NS = SECOND_NS
LEVEL = 3
DIRECTIONS = ("<", ">", "GET", "!")
LAST_NS = (1 << 63) - 1
# digits of LAST_NS
STAMP_DIGITS = 19
EXCHANGE_NAME = re.compile(r"[A-Za-z0-9_-]{1,64}")
# first bytes of other files that a user may give as a feed -> what the file is and what to do
OTHERS = {
    b"\xef\xbb\xbf": "text with a byte order mark from an editor: remove the mark",
    b"\xff\xfe": "UTF-16 text from an editor: convert it to UTF-8",
    b"\x1f\x8b": "gzip: decompress it first",
    b"PAR1": "Parquet: `coinspace feed convert` makes a feed of it",
}


class Record(NamedTuple):
    """One line of a feed.

    received_ns: since 1970. direction: one of DIRECTIONS. path: of a GET, else "".
    payload: the bytes on the wire; the JSON of a mark.
    """

    received_ns: int
    direction: str
    path: str
    payload: bytes

    def mark(self) -> dict[str, Any]:
        """Return a mark's content."""
        content: dict[str, Any] = orjson.loads(self.payload)
        return content


def encode_line(record: Record) -> bytes:
    """Return the line of a record.

    Raises: FeedError for an unknown direction or a path with a space.
    """
    received_ns, direction, path, payload = record
    if direction not in DIRECTIONS:
        raise FeedError(f"direction: expected one of {', '.join(DIRECTIONS)}, was {direction!r}")
    if direction == "GET" and (not path.startswith("/") or " " in path or "\n" in path):
        raise FeedError(f"path of a GET: expected '/…' without a space, was {path!r}")
    if is_binary(payload) or b"\n" in payload or not _is_text(payload):
        payload, direction = base64.b64encode(payload), direction + "64"
    head = f"{received_ns} {direction} {path} " if path else f"{received_ns} {direction} "
    return head.encode() + payload + b"\n"


def read_stamp(text: bytes) -> int | None:
    """Return a time in ns since 1970, None for other text."""
    if len(text) > STAMP_DIGITS or not text.isdigit():
        return None
    stamp = int(text)
    return stamp if stamp <= LAST_NS else None


def _is_text(payload: bytes) -> bool:
    if payload.isascii():
        return True
    try:
        payload.decode()
    except UnicodeDecodeError:
        return False
    return True


def decode_line(line: bytes) -> Record:
    """Return the record of a line without its line feed.

    Raises: FeedError for an invalid line.
    """
    text, _, rest = line.partition(b" ")
    tag, space, payload = rest.partition(b" ")
    stamp = read_stamp(text)
    if stamp is None or not space:
        raise _line_error(line)
    direction, path = tag.decode("ascii", "replace"), ""
    coded = direction.endswith("64")
    if coded:
        direction = direction[:-2]
    if direction not in DIRECTIONS:
        raise FeedError(f"expected a direction of {', '.join(DIRECTIONS)}, was {direction[:60]!r}")
    if direction == "GET":
        raw, space, payload = payload.partition(b" ")
        if not space or not raw.startswith(b"/"):
            raise FeedError(f"expected 'GET /PATH ANSWER', was {line[:60]!r}")
        try:
            path = raw.decode()
        except UnicodeDecodeError:
            raise FeedError(f"expected a path in UTF-8, was {raw[:60]!r}") from None
    if coded:
        try:
            payload = base64.b64decode(payload, validate=True)
        except binascii.Error as error:
            raise FeedError(f"expected base64, {error}, was {line[:60]!r}") from None
    if direction == "!" and not _is_mark(payload):
        raise FeedError(f"expected a mark as a JSON object, was {payload[:60]!r}")
    return Record(stamp, direction, path, payload)


def _line_error(line: bytes) -> FeedError:
    if line.startswith(MAGIC):
        return FeedError(
            "expected a record, was the header of another feed: the file has several feeds one"
            " after the other; `coinspace feed merge` joins feeds"
        )
    return FeedError(
        f"expected 'TIME DIRECTION PAYLOAD', TIME in ns below {LAST_NS}, was {line[:60]!r}"
    )


def _is_mark(payload: bytes) -> bool:
    try:
        return isinstance(orjson.loads(payload), dict)
    except orjson.JSONDecodeError:
        return False


def read_header(text: bytes) -> dict[str, Any]:
    """Return the JSON of a header. Raises: FeedError for an invalid header."""
    try:
        header = orjson.loads(text)
    except orjson.JSONDecodeError as error:
        raise FeedError(f"expected a JSON header, {error}") from None
    if not isinstance(header, dict) or not isinstance(header.get("exchange"), str):
        raise FeedError(f"expected a header with an exchange, was {text[:80]!r}")
    exchange, started_ns = header["exchange"], header.get("started_ns", 0)
    if not EXCHANGE_NAME.fullmatch(exchange):
        raise FeedError(f"header: expected the name of an exchange, was {exchange[:80]!r}")
    if not isinstance(header.get("url"), str | None):
        raise FeedError("header: expected the URL as text")
    if type(started_ns) is not int or not 0 <= started_ns <= LAST_NS:
        raise FeedError(f"header: expected started_ns in ns below {LAST_NS}")
    return header


class FeedWriter:
    """Writes a feed; records before the last flush survive a crash."""

    def __init__(self, path: Path | str, header: dict[str, Any]) -> None:
        self.path = Path(path)
        self.records = 0
        self.bytes_written = 0
        self._last_ns = 0
        self._block: list[bytes] = []
        self._block_ns = 0
        self._compressor = zstandard.ZstdCompressor(level=LEVEL, write_checksum=True)
        try:
            self._file: BinaryIO = self.path.open("wb")
        except OSError as error:
            raise FeedError(f"feed {self.path}: expected a file to write, {error}") from None
        self._block.append(MAGIC + b"%d " % VERSION + orjson.dumps(header) + b"\n")

    def write(self, received_ns: int, direction: str, path: str, payload: bytes) -> None:
        """Append a record; a receive time before the last one is set to the last one."""
        received_ns = max(received_ns, self._last_ns)
        if self.records and (
            len(self._block) >= BLOCK_RECORDS or received_ns - self._block_ns >= BLOCK_NS
        ):
            self.flush()
        if not self._block or not self.records:
            self._block_ns = received_ns
        self._last_ns = received_ns
        self._block.append(encode_line(Record(received_ns, direction, path, payload)))
        self.records += 1

    def flush(self) -> None:
        """End the block: all records so far survive a crash of this process."""
        if self._block:
            block = self._compressor.compress(b"".join(self._block))
            self._file.write(block)
            self._file.flush()
            self.bytes_written += len(block)
            self._block.clear()

    def close(self) -> None:
        if not self._file.closed:
            self.flush()
            self._file.close()

    def __enter__(self) -> FeedWriter:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()


class FeedReader:
    """Iterates over the records of a feed, plain or compressed.

    Args:
        start_ns: first receive time to read. Whole blocks before it are skipped unread; `line` then
            counts from the first block read.
        end_ns: receive time to stop before.
    Attributes:
        header: of the feed.
        line: number of the last record's line, 1 = header.
        torn: the file ends within a block or line; all records before were read.
    Raises: FeedError with file, line and what was expected.
    """

    def __init__(self, path: Path | str, *, start_ns: int = 0, end_ns: int | None = None) -> None:
        self.path = Path(path)
        self.start_ns = start_ns
        self.end_ns = end_ns
        self.line = 1
        self.torn = False
        self.compressed_read = 0
        try:
            facts = self.path.stat()
            if not stat.S_ISREG(facts.st_mode):
                raise OSError("was a folder, a pipe or a device")
            self._file: BinaryIO = self.path.open("rb")
        except (OSError, ValueError) as error:
            text = getattr(error, "strerror", None) or str(error)
            raise FeedError(f"feed {self.path}: expected a readable file, {text}") from None
        self.size = facts.st_size
        self._lines = self._read_lines()
        try:
            self.header = self._read_header()
        except FeedError:
            self._file.close()
            raise

    def _read_header(self) -> dict[str, Any]:
        first = next(self._lines, b"")
        if not first.startswith(MAGIC):
            other = next((text for head, text in OTHERS.items() if first.startswith(head)), None)
            was = other or (repr(first[:60]) if first else "no line" if self.size else "empty")
            raise self._error(f"expected '#coinspace-feed {VERSION} {{…}}', was {was}")
        if first.endswith(b"\r"):
            raise self._error(
                "expected lines that end with LF, was CR LF: a text tool changed the file;"
                " `tr -d '\\r'` restores it"
            )
        version, _, text = first[len(MAGIC) :].partition(b" ")
        if version != b"%d" % VERSION:
            raise self._error(f"expected feed version {VERSION}, was {version[:60]!r}")
        try:
            return read_header(text)
        except FeedError as error:
            raise self._error(str(error)) from None

    @property
    def exchange(self) -> str:
        return str(self.header["exchange"])

    def _error(self, text: str) -> FeedError:
        return FeedError(f"feed {self.path}, line {self.line}: {text}")

    def _read_lines(self, offset: int = 0) -> Generator[bytes, None, None]:
        self._file.seek(offset)
        stream = Inflated(self._file, self._on_read)
        lines = Lines(stream)
        try:
            for batch in lines:
                yield from batch
        except FeedError as error:
            raise self._error(f"after this line: {error}") from None
        # a compressed file that is cut between two lines has no rest, but an incomplete zstd frame
        self.torn = bool(lines.rest) or stream.torn

    def _on_read(self) -> None:
        self.compressed_read = self._file.tell()

    def unchecked_blocks(self) -> tuple[int, int]:
        """Return (blocks whose content has no checksum, all blocks); a plain file is one block."""
        blocks = list(walk(self.path))
        return sum(not block.checked for block in blocks), len(blocks)

    def _skip_blocks(self) -> None:
        # start at the last block whose first record is not after the start
        blocks = list(walk(self.path))
        low, high = 0, len(blocks) - 1
        while low < high:
            middle = (low + high + 1) // 2
            first = self._first_stamp(blocks[middle])
            low, high = (middle, high) if 0 < first < self.start_ns else (low, middle - 1)
        if low:
            self._lines.close()
            self._lines = self._read_lines(blocks[low].offset)

    def _first_stamp(self, block: Block) -> int:
        with self.path.open("rb") as file:
            file.seek(block.offset)
            stream = zstandard.ZstdDecompressor().stream_reader(file)
            try:
                stamp = stream.read(64).partition(b" ")[0]
            except zstandard.ZstdError:
                return 0
        return read_stamp(stamp) or 0

    def __iter__(self) -> Iterator[Record]:
        last_ns = 0
        if self.start_ns and self.line == 1:
            self._skip_blocks()
        skip_ns, end_ns = self.start_ns, self.end_ns
        for line in self._lines:
            self.line += 1
            if skip_ns:
                stamp = read_stamp(line.partition(b" ")[0])
                if stamp is not None and stamp < skip_ns:
                    continue
            try:
                record = decode_line(line)
            except FeedError as error:
                raise self._error(str(error)) from None
            if record.received_ns < last_ns:
                raise self._error(
                    f"expected a receive time not before {last_ns}, was {record.received_ns}"
                )
            last_ns = record.received_ns
            if end_ns is not None and last_ns >= end_ns:
                return
            yield record

    def close(self) -> None:
        self._file.close()

    def __enter__(self) -> FeedReader:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()


def first_ns(path: Path | str) -> int:
    """Return the receive time of a feed's first record, 0 = it has no record."""
    with FeedReader(path) as reader:
        first = next(iter(reader), None)
    return first.received_ns if first else 0
