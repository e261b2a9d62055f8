"""A program with other contents of its memory: the same ELF file, its writable segments replaced.

Text and all other read-only segments stay as the linker placed them. A writable segment is written again at the end
of the file, without the zeros it ends in, which the kernel makes. The table of sections goes; nothing runs by it.
"""

from __future__ import annotations

import struct
from dataclasses import astuple, dataclass, replace

PAGE = 4096
LOAD = 1
WRITABLE = 2

_PROGRAM_HEADER = struct.Struct("<IIQQQQQQ")


@dataclass(frozen=True, slots=True)
class Segment:
    kind: int
    flags: int
    offset: int
    address: int
    physical: int
    size_in_file: int
    size: int
    alignment: int

    @property
    def is_written(self) -> bool:
        return self.kind == LOAD and bool(self.flags & WRITABLE)

    def holds(self, other: Segment) -> bool:
        return self.address <= other.address < self.address + self.size


def segments(program: bytes) -> list[Segment]:
    table, count = _table(program)
    return [Segment(*_PROGRAM_HEADER.unpack_from(program, table + n * _PROGRAM_HEADER.size)) for n in range(count)]


def with_memory(program: bytes, memory: bytes) -> bytes:
    """`memory` is the contents of the writable segments, one behind the other, in the order of their headers."""
    before = segments(program)
    written = [each for each in before if each.is_written]
    if len(memory) != sum(each.size for each in written):
        raise ValueError(f"{len(memory)} bytes of memory are not those of the writable segments")
    kept = max(each.offset + each.size_in_file for each in before if each.kind == LOAD and not each.is_written)
    image = bytearray(program[:kept])
    moved = []
    for each in written:
        contents, memory = memory[: each.size].rstrip(b"\0"), memory[each.size :]
        image += bytes(-len(image) % PAGE + each.address % PAGE)
        moved.append(replace(each, offset=len(image), size_in_file=len(contents)))
        image += contents
    table, _ = _table(program)
    for number, each in enumerate(before):
        home = next((new for new in moved if new.holds(each)), None)
        if home and each.is_written:
            each = home
        elif home:
            each = replace(each, offset=home.offset + each.address - home.address)
        _PROGRAM_HEADER.pack_into(image, table + number * _PROGRAM_HEADER.size, *astuple(each))
    struct.pack_into("<Q", image, 40, 0)  # e_shoff
    struct.pack_into("<HH", image, 60, 0, 0)  # e_shnum, e_shstrndx
    return bytes(image)


def _table(program: bytes) -> tuple[int, int]:
    if program[:6] != b"\x7fELF\x02\x01":
        raise ValueError("no little-endian ELF file of 64 bits")
    (offset,) = struct.unpack_from("<Q", program, 32)
    size, count = struct.unpack_from("<HH", program, 54)
    if size != _PROGRAM_HEADER.size:
        raise ValueError(f"program headers of {size} bytes")
    return offset, count
