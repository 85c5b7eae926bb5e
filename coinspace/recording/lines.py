"""Reads the lines of a file or pipe, decompressed if it is Zstandard, in bounded memory.

Hostile input cannot fill the memory: the length of a line is limited, compressed bytes are
decompressed in small slices, and a file that decompresses far more than a recording is refused.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import BinaryIO

import zstandard

from coinspace.errors import FeedError
from coinspace.recording.blocks import MAGIC

# bytes per read: large enough for low overhead, small enough to stream
READ_SIZE = 1 << 20
# 4 bytes can decompress to 128 KB: one slice gives less than 32 MB
SLICE = 1 << 10
WRITE_SIZE = 1 << 15
# real recordings decompress to 4 to 50 times their size; more than this is an attack
MOST_INFLATION = 1000
# bytes decompressed before MOST_INFLATION applies: short files may be very repetitive; so many
# are read in less than 0.1 s
FREE_BYTES = 1 << 20
LINE_LIMIT = 64 << 20


class Inflated:
    """Iterates over the bytes of a stream as they arrive, decompressed if they are Zstandard.

    Attributes: is_zstd; torn: the stream ended within a zstd frame.
    Raises: FeedError when compressed bytes are damaged or decompress beyond the limits.
    """

    def __init__(self, source: BinaryIO, on_read: Callable[[], None] = lambda: None) -> None:
        self._read: Callable[[int], bytes] = source.read1  # type: ignore[attr-defined]
        self._on_read = on_read
        # `read`, not `read1`: a pipe may deliver fewer than the four bytes of the magic number
        self._head = source.read(len(MAGIC))
        self.is_zstd = self._head == MAGIC
        self.torn = False

    def __iter__(self) -> Iterator[bytes]:
        parts = self._parts()
        return self._inflate(parts) if self.is_zstd else parts

    def _parts(self) -> Iterator[bytes]:
        part = self._head
        while part:
            self._on_read()
            yield part
            part = self._read(READ_SIZE)

    def _inflate(self, parts: Iterable[bytes]) -> Iterator[bytes]:
        decompressor = zstandard.ZstdDecompressor()
        frame = decompressor.decompressobj(write_size=WRITE_SIZE)
        read = made = 0
        for part in parts:
            view, at = memoryview(part), 0
            while at < len(view):
                piece = view[at : at + SLICE]
                if frame.eof:
                    frame = decompressor.decompressobj(write_size=WRITE_SIZE)
                try:
                    inflated = frame.decompress(piece)
                except zstandard.ZstdError as error:
                    raise FeedError(f"expected a zstd frame, was damaged: {error}") from None
                used = len(piece) - len(frame.unused_data)
                at, read, made = at + used, read + used, made + len(inflated)
                if made > FREE_BYTES and made > MOST_INFLATION * read:
                    raise FeedError(
                        "expected a recording, was a file that decompresses to more than"
                        f" {MOST_INFLATION} times its size"
                    )
                # a part of empty lines becomes a list that is eight times as large
                for start in range(0, len(inflated), READ_SIZE):
                    yield inflated[start : start + READ_SIZE]
        self.torn = not frame.eof


class Lines:
    """Iterates over the lines that each part completes, as lists.

    Args: whole: bytes after the last line feed are a line too.
    Attributes: rest: bytes after the last line feed, once all parts are read.
    Raises: FeedError when a line is longer than LINE_LIMIT bytes.
    """

    def __init__(self, parts: Iterable[bytes], *, whole: bool = False) -> None:
        self._parts = parts
        self._whole = whole
        self.rest = b""

    def __iter__(self) -> Iterator[list[bytes]]:
        pending: list[bytes] = []
        size = 0
        for part in self._parts:
            head, newline, rest = part.partition(b"\n")
            pending.append(head)
            size += len(head)
            if size > LINE_LIMIT:
                raise FeedError(f"expected lines of {LINE_LIMIT} bytes at most, found a longer one")
            if newline:
                lines = rest.split(b"\n")
                lines.insert(0, b"".join(pending))
                pending = [lines.pop()]
                size = len(pending[0])
                yield lines
        self.rest = b"".join(pending)
        if self._whole and self.rest:
            yield [self.rest]
