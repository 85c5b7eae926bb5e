"""Find the zstd frames of a file from their headers, without decompressing.

Layout of a frame (RFC 8878, 3.1.1): magic, descriptor, window, dictionary id, content size, then
blocks with a 3-byte header (last, type, size), then optionally a checksum of the content.
Skippable frames have only a size.
"""

from __future__ import annotations

import mmap
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

MAGIC = b"\x28\xb5\x2f\xfd"
SKIPPABLE = 0x184D2A50
DICTIONARY_SIZES = (0, 1, 2, 4)
CONTENT_SIZES = (0, 2, 4, 8)
RLE = 1
# bits of the descriptor; the second one is always 0 in a valid frame
CHECKSUM, UNUSED = 0x04, 0x10


class Block(NamedTuple):
    """A zstd frame: a block of a feed.

    checked: the frame has a checksum of its content.
    """

    offset: int
    checked: bool


def walk(path: Path) -> Iterator[Block]:
    """Yield every zstd frame of a file; the last one may be incomplete."""
    if not path.stat().st_size:
        return
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        at, end = 0, len(data)
        while at < end:
            flags = data[at + 4] if data[at : at + 4] == MAGIC and end - at > 4 else 0
            yield Block(at, flags & (CHECKSUM | UNUSED) == CHECKSUM)
            at = _end(data, at, end)


def _end(data: mmap.mmap, at: int, end: int) -> int:
    # the offset after the frame; `end` when the frame is cut or the bytes are not one
    if end - at < 6:
        return end
    if data[at : at + 4] != MAGIC:
        number = int.from_bytes(data[at : at + 4], "little")
        if number & 0xFFFFFFF0 != SKIPPABLE or end - at < 8:
            return end
        return at + 8 + int.from_bytes(data[at + 4 : at + 8], "little")
    flags = data[at + 4]
    single = bool(flags & 0x20)
    content = CONTENT_SIZES[flags >> 6] or (1 if single else 0)
    at += 5 + (0 if single else 1) + DICTIONARY_SIZES[flags & 3] + content
    while True:
        if at + 3 > end:
            return end
        header = int.from_bytes(data[at : at + 3], "little")
        at += 3 + (1 if header >> 1 & 3 == RLE else header >> 3)
        if header & 1:
            return at + (4 if flags & CHECKSUM else 0)
