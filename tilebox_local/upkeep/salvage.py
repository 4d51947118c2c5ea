"""Find the rows of a damaged store: first where its b-trees lead, then on pages that nothing leads to any more.

A page whose way from the root is lost is given to the table that the pointer map names (it leads from each page to its
parent), else to the only table that its rows can belong to.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, NamedTuple

from tilebox_local.catalog import run
from tilebox_local.upkeep.pages import BTREE, INDEX_KINDS, ROOT, TABLE_KINDS, read_record

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    import apsw

    from tilebox_local.upkeep.pages import BTreePage, Image

__all__ = ["UNKNOWN", "Row", "Salvage", "Table", "read_tables"]

UNKNOWN = "?"  # what a page belonged to that nothing tells of
_INDEX = "index"
_SCHEMA = "sqlite_schema"
_MIN_COLUMNS = 4  # rows with fewer columns look like those of indexes
_MAX_ROWID = 1 << 53
_MAX_DEPTH = 64
_MAX_COLUMNS = 2000
_SAMPLE = 4


class Row(NamedTuple):
    """A row as it was found: values of the first columns of the table, in the order of `Table.columns`."""

    table: str
    values: tuple[object, ...]


@dataclass(frozen=True)
class Table:
    """How rows of a table are stored. `columns` are in the order of the record; `rowid_column` is not in it."""

    name: str
    columns: tuple[str, ...]
    types: tuple[str, ...]
    required: tuple[bool, ...]
    rowid_column: int | None
    has_rowid: bool
    key: tuple[int, ...] = ()
    least_columns: int = 1  # up to the last one that has always been there

    def is_ascending(self, rows: list[Row]) -> bool:
        """Whether the rows of a page are in the order of their keys."""
        keys = [tuple(row.values[position] for position in self.key) for row in rows]
        return all(first < second for first, second in pairwise(keys))

    def fits(self, values: list[object], *, is_exact: bool) -> bool:
        """Whether the values can be a row. Unless `is_exact`, columns may be missing that were added later."""
        least = len(self.columns) if is_exact else self.least_columns
        if not least <= len(values) <= len(self.columns):
            return False
        for position, value in enumerate(values):
            if value is None:
                if self.required[position] and position != self.rowid_column:
                    return False
            elif self.types[position] != "ANY" and not isinstance(value, _PYTHON_TYPES[self.types[position]]):
                return False
        return True


_PYTHON_TYPES: Mapping[str, tuple[type, ...]] = {
    "INTEGER": (int,),
    "TEXT": (str, bytearray),
    "BLOB": (bytes,),
    "REAL": (int, float),
}
_SCHEMA_TABLE = Table(
    _SCHEMA,
    ("type", "name", "tbl_name", "rootpage", "sql"),
    ("TEXT", "TEXT", "TEXT", "INTEGER", "TEXT"),
    (True, True, True, False, False),
    None,
    has_rowid=True,
)


def read_tables(connection: apsw.Connection) -> dict[str, Table]:
    """How the tables of a store are stored, by name."""
    tables = {}
    for name, is_without_rowid in run(connection, "tables"):
        stored = run(connection, "stored_columns", (name,))
        if is_without_rowid:
            stored = sorted(stored, key=lambda column: column[3] or _MAX_COLUMNS)  # the key comes first
        columns, types, required, positions, defaults = zip(*stored, strict=True)
        keys = [index for index, position in enumerate(positions) if position]
        tables[name] = Table(
            name,
            columns,
            types,
            tuple(map(bool, required)),
            None if is_without_rowid or len(keys) != 1 or types[keys[0]] != "INTEGER" else keys[0],
            not is_without_rowid,
            tuple(keys),
            1 + max(index for index, needed in enumerate(required) if needed and defaults[index] is None),
        )
    return tables


class Salvage:
    """Goes through all pages of an image once.

    Args:
        image: The damaged file.
        tables: What may be in it.
        roots: The root page of each table in a new store: that of the file, too, where it does not say so itself.
    """

    def __init__(self, image: Image, tables: dict[str, Table], roots: dict[str, int]) -> None:
        self._image = image
        self._tables = tables
        self._owners: dict[int, str] = {}  # page -> table, or _INDEX
        self._claims: dict[int, str] = {}  # page that could not be read -> table whose b-tree leads to it
        self._reached: list[tuple[int, str]] = []
        self.lost_rows: Counter[str] = Counter()  # that were there and cannot be read
        self.damaged_pages: Counter[str] = Counter()  # nobody knows how many rows were on them
        self.foreign_tables: list[str] = []
        self.schema_rows = 0
        self.pages_read = 0  # of those that may have rows, so far
        self._find_trees(roots)

    @property
    def page_count(self) -> int:
        """Pages that a b-tree leads to: those that `rows` reads first."""
        return len(self._reached)

    # -- the way from the roots -----------------------------------------------------------------------------------

    def _find_trees(self, roots: dict[str, int]) -> None:
        found = self._read_schema()
        claimed = set(found.values())
        found |= {name: root for name, root in roots.items() if name not in found and root not in claimed}
        # Tables first: they can tell whether a page is theirs.
        for name, root in sorted(found.items(), key=lambda item: item[0] not in self._tables):
            self._walk(root, name if name in self._tables else _INDEX)

    def _read_schema(self) -> dict[str, int]:
        """Root pages by name, as the file itself says."""
        self._walk(1, _SCHEMA)
        pages = [number for number, _ in self._reached]
        self._reached = []
        for number in range(2, self._image.page_count + 1):
            entry = self._image.map_entry(number)  # its leaves, if its first page is gone
            if number not in self._owners and entry is not None and entry == (BTREE, 1):
                page = self._image.btree_page(number)
                if page is not None and page.kind in TABLE_KINDS:
                    self._owners[number] = _SCHEMA
                    pages.append(number)
        found = {}
        for page_no in pages:
            for row in self._rows_of(page_no, _SCHEMA_TABLE, is_exact=True):
                kind, name, _, root, _ = row.values
                if not isinstance(name, str):
                    continue
                self.schema_rows += name in self._tables
                if isinstance(root, int) and 1 < root <= self._image.page_count:
                    found[name] = root
                    if kind == "table" and name not in self._tables and not name.startswith("sqlite_"):
                        self.foreign_tables.append(name)
        self.lost_rows.pop(_SCHEMA, None)
        return found

    def _walk(self, root: int, name: str) -> None:
        """Visit a b-tree, as far as its pages can belong to it."""
        waiting = [root]
        while waiting:
            number = waiting.pop()
            if number in self._owners:
                continue
            page = self._image.btree_page(number)
            if page is None or not self._can_belong(page, name):
                self._claims.setdefault(number, name)
                continue
            self._owners[number] = name
            self._reached.append((number, name))
            waiting.extend(reversed(page.children))

    def _can_belong(self, page: BTreePage, name: str) -> bool:
        if name == _INDEX:
            return page.kind in INDEX_KINDS
        table = self._table(name)
        if page.kind not in (TABLE_KINDS if table.has_rowid else INDEX_KINDS):
            return False
        if (page.is_interior and table.has_rowid) or not page.offsets:
            return True
        return any(self._read(page, offset, table, is_exact=False) for offset in page.offsets[:_SAMPLE])

    def _table(self, name: str) -> Table:
        return _SCHEMA_TABLE if name == _SCHEMA else self._tables[name]

    # -- rows -----------------------------------------------------------------------------------------------------

    def rows(self) -> Iterator[Row]:
        """All rows that can be read; those whose pages are in doubt come last."""
        doubtful: list[Row] = []
        for number, name in self._reached:
            self.pages_read += 1
            if name == _INDEX:
                continue
            table = self._tables[name]
            rows = list(self._rows_of(number, table, is_exact=False))
            if number in self._image.doubtful_pages or not table.is_ascending(rows):
                doubtful += rows
            else:
                yield from rows
        yield from doubtful
        yield from self._rows_of_lost_pages()

    def _rows_of(self, number: int, table: Table, *, is_exact: bool) -> Iterator[Row]:
        page = self._image.btree_page(number)
        if page is None or (page.is_interior and table.has_rowid):
            return  # rows are in the leaves
        for offset in page.offsets:
            row = self._read(page, offset, table, is_exact=is_exact)
            if row is None:
                self.lost_rows[table.name] += 1
            else:
                yield row

    def _read(self, page: BTreePage, offset: int, table: Table, *, is_exact: bool) -> Row | None:
        payload = self._image.payload(page, offset)
        values = None if payload is None else read_record(payload.record)
        if payload is None or values is None or not table.fits(values, is_exact=is_exact):
            return None
        if table.rowid_column is not None:
            if payload.rowid is None or not 0 <= payload.rowid < _MAX_ROWID:
                return None
            values[table.rowid_column] = payload.rowid
        return Row(table.name, tuple(values))

    # -- pages that nothing leads to ------------------------------------------------------------------------------

    def _rows_of_lost_pages(self) -> Iterator[Row]:
        free = self._image.free_pages()
        if self._image.missing_pages:
            self.damaged_pages[UNKNOWN] += self._image.missing_pages
        for number in range(2, self._image.page_count + 1):
            if number in self._owners or self._image.is_special(number):
                continue
            entry = self._image.map_entry(number)
            if number in free if entry is None else entry[0] not in (ROOT, BTREE):
                continue
            page = self._image.btree_page(number)
            name = self._owner_by_map(number) or self._claims.get(number)
            if name is not None and (name in (_INDEX, _SCHEMA) or (page is not None and self._can_belong(page, name))):
                if page is not None and name not in (_INDEX, _SCHEMA):
                    yield from self._rows_of(number, self._tables[name], is_exact=False)
                elif name == _SCHEMA:
                    self.damaged_pages[_SCHEMA] += 1
                continue
            table = None if page is None else self._table_by_shape(page)
            if page is not None and table is not None:
                yield from self._rows_of(number, table, is_exact=True)
            elif name is not None or (page is None and entry is not None):
                self.damaged_pages[name or UNKNOWN] += 1

    def _owner_by_map(self, number: int) -> str | None:
        """The table or index of a page, by way of its parents."""
        for _ in range(_MAX_DEPTH):
            if number in self._owners:
                return self._owners[number]
            if number in self._claims:
                return self._claims[number]
            entry = self._image.map_entry(number)
            if entry is None or entry[0] != BTREE:
                return None
            number = entry[1]
        return None

    def _table_by_shape(self, page: BTreePage) -> Table | None:
        """The only table that has the rows of this page; None if there is none, or more than one."""
        candidates = [
            table
            for table in self._tables.values()
            if page.kind in (TABLE_KINDS if table.has_rowid else INDEX_KINDS)
            and len(table.columns) >= _MIN_COLUMNS
            and any(self._read(page, offset, table, is_exact=True) for offset in page.offsets)
        ]
        return candidates[0] if len(candidates) == 1 else None
