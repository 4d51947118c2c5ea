"""What schema.sql says about its tables and views, read from its comments: the one place where they are described.

A comment right above CREATE describes a table or a view; one in the line of a column, and those indented below it, the
column; a block between two ruled lines heads a section. The columns of views are described once for all views, in the
list that begins with "Columns of the views".
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING

from tilebox_local.storage.schema import columns_of_script, read_schema_sql

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

__all__ = ["ColumnDocs", "RelationDocs", "SchemaDocs", "SectionDocs", "read_schema_docs"]

_RULE = re.compile(r"-- -{20,}")
_CREATE = re.compile(r"CREATE (TABLE|VIEW) (\w+)")
_GLOSSARY = "-- Columns of the views."
_GLOSSARY_LINE = re.compile(r"--     ((?:[\w.*]+, )*[\w.*]+) +(\S.*)")
_COLUMN = re.compile(r"  (\w+) +[A-Z]")
_LAST_COMMENT = re.compile(r"--(?!.*--) ?(.*)")


@dataclass(frozen=True)
class ColumnDocs:
    """A column: its name, its type ("" in views), and what is in it ("" if its name says so)."""

    name: str
    type: str
    text: str


@dataclass(frozen=True)
class RelationDocs:
    """A table or a view ("TABLE", "VIEW"), what it is, its columns, and its statement."""

    kind: str
    name: str
    text: str
    columns: tuple[ColumnDocs, ...]
    sql: str


@dataclass(frozen=True)
class SectionDocs:
    """Tables or views that belong together."""

    title: str
    text: str
    relations: tuple[RelationDocs, ...]


@dataclass(frozen=True)
class SchemaDocs:
    """All of it: the text at the head of the file, and its sections, in their order."""

    text: str
    sections: tuple[SectionDocs, ...]

    @property
    def relations(self) -> tuple[RelationDocs, ...]:
        """Tables and views of all sections."""
        return tuple(relation for section in self.sections for relation in section.relations)

    @property
    def views(self) -> tuple[RelationDocs, ...]:
        """Views of all sections."""
        return tuple(relation for relation in self.relations if relation.kind == "VIEW")


@cache
def read_schema_docs() -> SchemaDocs:
    """What schema.sql says. Raises ValueError if it does not describe a view, or a column of one."""
    script = read_schema_sql()
    columns = columns_of_script(script)
    glossary = _glossary(script)
    head, *blocks = _blocks(script)
    sections = [
        SectionDocs(title, text, tuple(_relations(body, columns, glossary)))
        for (title, text), body in _sections(blocks)
    ]
    return SchemaDocs(_uncommented(head), tuple(sections))


def _blocks(script: str) -> list[list[str]]:
    """The lines of the file, divided at ruled lines."""
    blocks: list[list[str]] = [[]]
    for line in script.splitlines():
        if _RULE.fullmatch(line):
            blocks.append([])
        else:
            blocks[-1].append(line)
    return blocks


def _sections(blocks: list[list[str]]) -> Iterator[tuple[tuple[str, str], list[str]]]:
    """(title, text) and body of each section: the block between two rules, and that after them."""
    for heading, body in zip(blocks[::2], blocks[1::2], strict=True):
        title, _, text = _uncommented(heading).partition("\n")
        yield (title, text.strip("\n")), body


def _uncommented(lines: list[str]) -> str:
    return "\n".join(line.removeprefix("--").removeprefix(" ") for line in lines).strip("\n")


def _relations(
    lines: list[str], columns: dict[str, list[tuple[str, str]]], glossary: dict[str, str]
) -> Iterator[RelationDocs]:
    above: list[str] = []
    for index, line in enumerate(lines):
        found = _CREATE.match(line)
        if line.startswith("--"):
            above.append(line)
        elif found is None:
            above = []
        else:
            kind, name = found.groups()
            end = next(last for last in range(index, len(lines)) if lines[last].split("--")[0].rstrip().endswith(";"))
            sql = "\n".join(lines[index : end + 1])
            if not above:
                raise ValueError(f"schema.sql does not say what {name} is.")
            described = _described_in(lines[index + 1 : end]) if kind == "TABLE" else _described_by(glossary, name)
            docs = [ColumnDocs(column, type_, described(column)) for column, type_ in columns[name]]
            yield RelationDocs(kind, name, _uncommented(above), tuple(docs), sql)
            above = []


def _described_in(lines: list[str]) -> Callable[[str], str]:
    """What the lines of a CREATE TABLE say about a column."""
    texts: dict[str, list[str]] = {}
    ahead: list[str] = []
    current: list[str] = []
    for line in lines:
        comment = _LAST_COMMENT.search(line)
        text = comment[1] if comment else ""
        column = _COLUMN.match(line)
        if column is not None:
            current = texts.setdefault(column[1], ahead)
            ahead = []
            current += [text] if text else []
        elif line.startswith("  --"):
            ahead.append(text)
        elif text:
            current.append(text)
    return lambda name: " ".join(texts.get(name, []))


def _glossary(script: str) -> dict[str, str]:
    """What the list of columns says, by "column", "view.column" or pattern such as "*_ns"."""
    found: dict[str, str] = {}
    lines = script[script.index(_GLOSSARY) :].splitlines()
    for line in lines[: lines.index("")]:
        entry = _GLOSSARY_LINE.fullmatch(line)
        if entry is None:
            continue
        for name in entry[1].split(", "):
            if name in found:
                raise ValueError(f"schema.sql describes the column {name} twice.")
            found[name] = entry[2]
    return found


def _described_by(glossary: dict[str, str], view: str) -> Callable[[str], str]:
    """What the list of columns says about a column of a view."""

    def describe(name: str) -> str:
        for key in (f"{view}.{name}", name, f"*{name[name.rfind('_') :]}"):
            if key in glossary:
                return glossary[key]
        raise ValueError(f"schema.sql does not say what the column {name} of the view {view} is.")

    return describe
