"""SQLite's file format, for files that SQLite refuses: pages, the write-ahead log, b-tree cells, records.

Nothing here trusts the file. Each function says so if what it reads cannot be right, and never raises for it.
See https://www.sqlite.org/fileformat2.html, whose words are used.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

__all__ = ["BTREE", "FREE", "INDEX_KINDS", "ROOT", "TABLE_KINDS", "BTreePage", "Image", "Payload", "read_record"]

PAGE_SIZE = 4096  # of every store
_MAGIC = b"SQLite format 3\0"
_WAL_MAGIC = 0x377F0682
_WAL_HEADER, _FRAME_HEADER = 32, 24
_LOCK_PAGE = 0x40000000 // PAGE_SIZE + 1
_MOST_CUT = 1000  # a file that should be so many times longer has a damaged header
_MAX_PAYLOAD = 16 * 1024 * 1024 + 64 * 1024
_ENTRY = 5  # bytes of the pointer map per page
_MAP_ENTRIES = PAGE_SIZE // _ENTRY
ROOT, FREE, _OVERFLOW_FIRST, _OVERFLOW_NEXT, BTREE = 1, 2, 3, 4, 5  # entries of the pointer map
_INTERIOR_INDEX, _INTERIOR_TABLE, _LEAF_INDEX, _LEAF_TABLE = 2, 5, 10, 13
TABLE_KINDS, INDEX_KINDS = frozenset({_INTERIOR_TABLE, _LEAF_TABLE}), frozenset({_INTERIOR_INDEX, _LEAF_INDEX})
_INTERIOR_KINDS = frozenset({_INTERIOR_INDEX, _INTERIOR_TABLE})


class Payload(NamedTuple):
    """What a cell holds: a record, and in a table the rowid."""

    rowid: int | None
    record: bytes


class BTreePage(NamedTuple):
    """A page of a b-tree: its kind, where its cells begin, and its children if it is an interior page."""

    number: int
    data: bytes
    kind: int
    offsets: tuple[int, ...]
    children: tuple[int, ...]

    @property
    def is_interior(self) -> bool:
        """Whether there are pages below it."""
        return self.kind in _INTERIOR_KINDS


class Image:
    """The pages of a store as they are once its write-ahead log is applied. Reads the files and changes nothing.

    Where a frame in the middle of the log is damaged, SQLite forgets it and everything after it. Here the commits after
    it count, and the pages of such frames are in `doubtful_pages`; `damaged_frames` is their number. `missing_pages` is
    how many pages the file should have behind its end.
    """

    def __init__(self, path: Path) -> None:
        self._file = path.open("rb")
        self._log = None
        self._frames: dict[int, int] = {}  # page -> where its newest content begins in the log
        self.doubtful_pages: set[int] = set()
        self.damaged_frames = 0
        self._map_pages: dict[int, bytes | None] = {}
        size = self._file.seek(0, 2)
        self.file_pages = -(-size // PAGE_SIZE)
        self.page_count = self.file_pages
        log = path.with_name(f"{path.name}-wal")
        if log.exists():
            self._log = log.open("rb")
            self.page_count = self._read_log() or self.file_pages
        declared = self._declared_pages()
        if not self._frames:
            self.page_count = min(declared or self.file_pages, self.file_pages)
        self._last_page = max(self.page_count, declared)
        self.missing_pages = self._last_page - self.page_count

    def close(self) -> None:
        """Close the files."""
        self._file.close()
        if self._log is not None:
            self._log.close()

    def page(self, number: int) -> bytes | None:
        """Content of a page, shorter than a page where the file is cut off; None if the file does not have it."""
        if not 1 <= number <= self.page_count:
            return None
        if number in self._frames and self._log is not None:
            self._log.seek(self._frames[number])
            return self._log.read(PAGE_SIZE)
        self._file.seek((number - 1) * PAGE_SIZE)
        return self._file.read(PAGE_SIZE) or None

    def _whole_page(self, number: int) -> bytes | None:
        data = self.page(number)
        return data if data is not None and len(data) == PAGE_SIZE else None

    @property
    def header(self) -> bytes | None:
        """The first 100 bytes of the database; None if they are damaged."""
        data = self.page(1)
        return data[:100] if data is not None and data.startswith(_MAGIC) and len(data) >= 100 else None

    def _declared_pages(self) -> int:
        header = self.header
        if header is None or header[24:28] != header[92:96]:  # written by something that does not keep the size
            return 0
        count = int.from_bytes(header[28:32], "big")
        return count if count <= self.file_pages * _MOST_CUT else 0

    # -- the write-ahead log --------------------------------------------------------------------------------------

    def _read_log(self) -> int:
        """Find the newest content of each page in the log; return the pages of the database after the last commit."""
        assert self._log is not None  # noqa: S101
        header = self._log.read(_WAL_HEADER)
        if len(header) < _WAL_HEADER:
            return 0
        magic = int.from_bytes(header[:4], "big")
        order = ">" if magic == _WAL_MAGIC + 1 else "<"
        salts, checksum = header[16:24], struct.unpack(">II", header[24:32])
        if magic & ~1 != _WAL_MAGIC or _checksum((0, 0), header[:24], order) != checksum:
            first = self._log.read(_FRAME_HEADER)  # the header is damaged, so believe the first frame
            salts = first[8:16]
            self._log.seek(_WAL_HEADER)
        frames = list(self._read_frames(salts, checksum, order))
        commits = [index for index, (_, size, _, is_good) in enumerate(frames) if size and is_good]
        if not commits:
            return 0
        for number, _, offset, is_good in frames[: commits[-1] + 1]:
            self._frames[number] = offset
            self.doubtful_pages.discard(number)
            if not is_good:
                self.doubtful_pages.add(number)
                self.damaged_frames += 1
        return frames[commits[-1]][1]

    def _read_frames(self, salts: bytes, checksum: tuple[int, int], order: str) -> Iterator[tuple[int, int, int, bool]]:
        """Each frame: its page, the size of the database if it is a commit, where its content begins, is it intact."""
        assert self._log is not None  # noqa: S101
        offset = _WAL_HEADER
        while True:
            frame = self._log.read(_FRAME_HEADER + PAGE_SIZE)
            if len(frame) < _FRAME_HEADER + PAGE_SIZE:
                return
            stored = struct.unpack(">II", frame[16:24])
            if frame[8:16] == salts:  # else left from before the log started over, or damaged
                found = _checksum(_checksum(checksum, frame[:8], order), frame[_FRAME_HEADER:], order)
                number, size = struct.unpack(">II", frame[:8])
                yield number, size, offset + _FRAME_HEADER, found == stored
            # Each checksum continues that of the frame before, as it is stored: so one bad frame is one bad frame.
            checksum = stored
            offset += _FRAME_HEADER + PAGE_SIZE

    # -- which page is what ---------------------------------------------------------------------------------------

    def map_entry(self, number: int) -> tuple[int, int] | None:
        """What the pointer map says of a page: its type, and the page that leads to it. None if it is not readable."""
        map_number = _map_page(number)
        if number < 2 or map_number == number:
            return None
        if map_number not in self._map_pages:
            self._map_pages[map_number] = self._sane_map_page(map_number)
        data = self._map_pages[map_number]
        if data is None:
            return None
        position = (number - map_number - 1) * _ENTRY
        kind, parent = data[position], int.from_bytes(data[position + 1 : position + _ENTRY], "big")
        return (kind, parent) if ROOT <= kind <= BTREE and parent <= self._last_page else None

    def _sane_map_page(self, map_number: int) -> bytes | None:
        data = self._whole_page(map_number)
        if data is None:
            return None
        used = min(_MAP_ENTRIES, self.page_count - map_number)
        kinds = data[: used * _ENTRY : _ENTRY]
        return data if sum(ROOT <= kind <= BTREE for kind in kinds) >= used * 0.9 else None

    def is_special(self, number: int) -> bool:
        """Whether the page is part of the pointer map, or the one that is never used."""
        return number == _LOCK_PAGE or (number > 1 and _map_page(number) == number)

    def free_pages(self) -> set[int]:
        """The pages of the freelist, as far as it can be followed."""
        header = self.header
        free: set[int] = set()
        trunk = int.from_bytes(header[32:36], "big") if header is not None else 0
        while trunk and trunk not in free:
            data = self._whole_page(trunk)
            if data is None:
                break
            free.add(trunk)
            trunk, count = struct.unpack(">II", data[:8])
            if count > PAGE_SIZE // 4 - 2:
                break
            free.update(struct.unpack_from(f">{count}I", data, 8))
        return free

    # -- b-trees --------------------------------------------------------------------------------------------------

    def btree_page(self, number: int) -> BTreePage | None:
        """A page of a b-tree; None if it cannot be one."""
        data = self.page(number)
        start = 100 if number == 1 else 0
        if data is None or len(data) < start + 12:
            return None
        kind = data[start]
        if kind not in TABLE_KINDS | INDEX_KINDS:
            return None
        is_interior = kind in _INTERIOR_KINDS
        count = int.from_bytes(data[start + 3 : start + 5], "big")
        first = start + (12 if is_interior else 8)
        if first + 2 * count > len(data) or (is_interior and not count):
            return None
        offsets = struct.unpack_from(f">{count}H", data, first)
        inside = tuple(offset for offset in offsets if first + 2 * count <= offset <= len(data) - 4)
        children: tuple[int, ...] = ()
        if is_interior:
            children = tuple(int.from_bytes(data[offset : offset + 4], "big") for offset in inside)
            children += (int.from_bytes(data[start + 8 : start + 12], "big"),)
        return BTreePage(number, data, kind, inside, children)

    def payload(self, page: BTreePage, offset: int) -> Payload | None:
        """What a cell holds; None if it cannot be right, or if pages that it goes on in are damaged."""
        data = page.data
        if page.kind == _INTERIOR_INDEX:
            offset += 4
        size, offset = _varint(data, offset)
        rowid: int | None = None
        if page.kind == _LEAF_TABLE:
            rowid, offset = _varint(data, offset)
            rowid = rowid - (1 << 64) if rowid >> 63 else rowid
            most = PAGE_SIZE - 35
        else:
            most = (PAGE_SIZE - 12) * 64 // 255 - 23
        if not 0 < size <= _MAX_PAYLOAD:
            return None
        if size <= most:
            return Payload(rowid, data[offset : offset + size]) if offset + size <= len(data) else None
        least = (PAGE_SIZE - 12) * 32 // 255 - 23
        local = least + (size - least) % (PAGE_SIZE - 4)
        if local > most:
            local = least
        if offset + local + 4 > len(data):
            return None
        following = int.from_bytes(data[offset + local : offset + local + 4], "big")
        rest = self._overflow(page.number, following, size - local)
        return None if rest is None else Payload(rowid, data[offset : offset + local] + rest)

    def _overflow(self, owner: int, number: int, size: int) -> bytes | None:
        """The content of a chain of overflow pages; None unless it has exactly the pages that it needs."""
        parts = []
        is_first = True
        while size > 0:
            data = self._whole_page(number)
            entry = self.map_entry(number)
            if data is None or not any(data):
                return None
            # One of the two may be damaged itself.
            if (
                entry is not None
                and entry[0] != (_OVERFLOW_FIRST if is_first else _OVERFLOW_NEXT)
                and entry[1] != owner
            ):
                return None
            owner, is_first = number, False
            number = int.from_bytes(data[:4], "big")
            parts.append(data[4 : 4 + size])
            size -= PAGE_SIZE - 4
        return None if number else b"".join(parts)


def _map_page(number: int) -> int:
    """The page of the pointer map that has the entry of a page."""
    found = (number - 2) // (_MAP_ENTRIES + 1) * (_MAP_ENTRIES + 1) + 2
    return found + 1 if found == _LOCK_PAGE else found


def _checksum(seed: tuple[int, ...], data: bytes, order: str) -> tuple[int, int]:
    first, second = seed
    words = struct.unpack(f"{order}{len(data) // 4}I", data)
    for even, odd in zip(words[::2], words[1::2], strict=True):
        first = (first + even + second) & 0xFFFFFFFF
        second = (second + odd + first) & 0xFFFFFFFF
    return first, second


def _varint(data: bytes, offset: int) -> tuple[int, int]:
    """A variable-length integer, and the offset behind it; the size -1 where the page ends before."""
    if offset < len(data) and data[offset] < 0x80:
        return data[offset], offset + 1
    result = 0
    for index in range(offset, min(offset + 9, len(data))):
        byte = data[index]
        if index == offset + 8:
            return result << 8 | byte, index + 1
        result = result << 7 | byte & 0x7F
        if byte < 0x80:
            return result, index + 1
    return -1, len(data)


_SIZES = (0, 1, 2, 3, 4, 6, 8, 8, 0, 0)


def read_record(record: bytes) -> list[object] | None:
    """The values of a record; None if its parts do not add up. Text that is no UTF-8 is a `bytearray`."""
    header_size, offset = _varint(record, 0)
    if not 0 < header_size <= len(record):
        return None
    values: list[object] = []
    position = header_size
    while offset < header_size:
        serial_type = record[offset]
        offset += 1
        if serial_type >= 0x80:
            serial_type, offset = _varint(record, offset - 1)
        if serial_type < 0 or serial_type in (10, 11):
            return None
        size = _SIZES[serial_type] if serial_type < 10 else (serial_type - 12) // 2
        content = record[position : position + size]
        position += size
        if position > len(record):
            return None
        values.append(_value(serial_type, content))
    return values if (offset, position) == (header_size, len(record)) else None


def _value(serial_type: int, content: bytes) -> object:
    if serial_type == 0:
        return None
    if serial_type == 7:
        return struct.unpack(">d", content)[0]
    if serial_type < 10:
        return serial_type - 8 if serial_type >= 8 else int.from_bytes(content, "big", signed=True)
    if serial_type % 2 == 0:
        return content
    try:
        return content.decode()
    except UnicodeDecodeError:
        return bytearray(content)
