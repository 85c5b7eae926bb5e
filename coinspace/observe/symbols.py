"""Names of functions at addresses of this process: its memory map and ELF symbol tables."""

from __future__ import annotations

import bisect
import re
import struct
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

SECTION = struct.Struct("<IIQQQQIIQQ")
SEGMENT = struct.Struct("<IIQQQQQQ")
SYMBOL = struct.Struct("<IBBHQQ")
SYMTAB, DYNSYM = 2, 11
LOAD = 1
FUNCTION = 2
# Cython's names: its prefix, then each word of the dotted name behind its length
CYTHON = re.compile(r"^__pyx_(?:fuse_\d+)?(f|pf|pw|tp|gb|getprop|setprop)_(\d.*)$")


class Mapping(NamedTuple):
    """A file's executable part in memory."""

    start: int
    end: int
    offset: int
    path: str


def mappings() -> list[Mapping]:
    """Return the executable mappings of this process."""
    found = []
    for line in Path("/proc/self/maps").read_text().splitlines():
        fields = line.split(None, 5)
        if len(fields) == 6 and "x" in fields[1] and fields[5].startswith("/"):
            start, end = (int(part, 16) for part in fields[0].split("-"))
            found.append(Mapping(start, end, int(fields[2], 16), fields[5]))
    return sorted(found)


@lru_cache(maxsize=256)
def functions(path: str) -> tuple[list[tuple[int, int, str]], list[tuple[int, int, int]]]:
    """Return (address, end, name) of an ELF file's functions, and its load segments.

    Segments are (offset, size, address). Both are empty for what cannot be read.
    """
    try:
        data = Path(path).read_bytes()
    except OSError:
        return [], []
    if data[:6] != b"\x7fELF\x02\x01":
        return [], []
    program_at, section_at = struct.unpack_from("<QQ", data, 32)
    program_size, programs, section_size, sections = struct.unpack_from("<HHHH", data, 54)
    loads = []
    for i in range(programs):
        kind, _, offset, address, _, size, _, _ = SEGMENT.unpack_from(
            data, program_at + i * program_size
        )
        if kind == LOAD:
            loads.append((offset, size, address))
    headers = [SECTION.unpack_from(data, section_at + i * section_size) for i in range(sections)]
    tables = {header[1]: header for header in headers if header[1] in (SYMTAB, DYNSYM)}
    table = tables.get(SYMTAB) or tables.get(DYNSYM)
    if table is None:
        return [], loads
    strings = headers[table[6]]
    found: dict[int, tuple[int, int, str]] = {}
    for at in range(table[4], table[4] + table[5], SYMBOL.size):
        name_at, info, _, section, value, size = SYMBOL.unpack_from(data, at)
        if info & 15 == FUNCTION and section and value:
            begin = strings[4] + name_at
            name = data[begin : data.index(0, begin)].decode(errors="replace")
            found[value] = value, value + size, name
    return sorted(found.values()), loads


def readable(name: str) -> str:
    """Turn Cython's spelling of a name into the dotted one."""
    found = CYTHON.match(name)
    if not found:
        return name
    words, rest = [], found[2]
    while (size := re.match(r"\d+", rest)) and len(rest) > len(size[0]):
        at, length = len(size[0]), int(size[0])
        words.append(rest[at : at + length])
        rest = rest[at + length :].lstrip("_") if rest[at + length :] else ""
        if not rest or not rest[0].isdigit():
            break
    if rest:
        words.append(rest)
    return ".".join(words)


class Symbols:
    """Names for addresses, as this process is mapped now."""

    def __init__(self) -> None:
        self._mappings = mappings()
        self._starts = [one.start for one in self._mappings]
        self._names: dict[int, str] = {}

    def name(self, address: int) -> str:
        """Return the function at an address, or its file, or `?`."""
        known = self._names.get(address)
        if known is None:
            known = self._names[address] = self._find(address)
        return known

    def _find(self, address: int) -> str:
        at = bisect.bisect_right(self._starts, address) - 1
        if at < 0 or address >= self._mappings[at].end:
            return "?"
        mapping = self._mappings[at]
        offset = address - mapping.start + mapping.offset
        known, loads = functions(mapping.path)
        file = Path(mapping.path).name
        for begin, size, virtual in loads:
            if begin <= offset < begin + size:
                where = offset - begin + virtual
                index = bisect.bisect_right(known, where, key=lambda one: one[0]) - 1
                # a stripped library names few functions: no name is better than a neighbour's
                if index >= 0 and where < known[index][1]:
                    return readable(known[index][2])
        return f"[{file}]"
