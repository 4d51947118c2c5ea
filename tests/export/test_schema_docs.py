"""What is written about tables, views and columns is there, is about what there is, and is on the page."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tilebox_local.export import schema_docs
from tilebox_local.export.datasette import datasette_metadata
from tilebox_local.export.questions import read_questions
from tilebox_local.export.schema_docs import read_schema_docs
from tilebox_local.export.schema_page import schema_page
from tilebox_local.storage.schema import read_schema_sql

if TYPE_CHECKING:
    from tilebox_local.storage.store import Store

ROOT = Path(__file__).parents[2]


def test_everything_is_described(store: Store) -> None:
    """Each table and view of a store is described, with its columns in their order; columns of views all of them."""
    with store.read() as connection:
        query = "SELECT name, type FROM sqlite_schema WHERE type IN ('table', 'view') ORDER BY rowid"
        found = [
            (
                name,
                kind.upper(),
                [row[0] for row in connection.execute("SELECT name FROM pragma_table_xinfo(?)", (name,))],
            )
            for name, kind in connection.execute(query).fetchall()
        ]
    docs = read_schema_docs()
    assert [(one.name, one.kind, [column.name for column in one.columns]) for one in docs.relations] == found
    assert [one.name for one in docs.relations if not one.text] == []
    assert [(one.name, column.name) for one in docs.views for column in one.columns if not column.text] == []


def test_descriptions_stand_with_their_column() -> None:
    """Comments in the line of a column, below it, and above it belong to it; views have their own meaning of a word."""
    columns = {one.name: {column.name: column.text for column in one.columns} for one in read_schema_docs().relations}
    assert columns["job_records"]["canceled"] == "1: queued tasks are withheld (canceled, or a task failed)"
    assert columns["job_records"]["job_id_text"] == "job_id as people write it; computed when it is read"
    assert columns["job_records"]["name"] == ""
    assert columns["jobs"]["queued"] == "tasks in this state"
    assert columns["concurrency"]["queued"] == "tasks that could be claimed from this instant on"
    assert columns["attempts"]["runner_no"] == "number of the row in this file"


def test_the_list_of_columns_has_nothing_else() -> None:
    """Each word of the list is a column of a view, each `view.word` one of that view."""
    views = {one.name: {column.name for column in one.columns} for one in read_schema_docs().views}
    every = set().union(*views.values())
    stale = []
    for key in schema_docs._glossary(read_schema_sql()):
        view, _, column = key.rpartition(".")
        if not key.startswith("*") and column not in (views.get(view, set()) if view else every):
            stale.append(key)
    assert stale == []


@pytest.mark.parametrize(
    ("before", "after", "message"),
    [
        ("\n--     share  ", "\n--     shared  ", "schema.sql does not say what the column share of the view"),
        ("\n--     share  ", "\n--     open  ", "schema.sql describes the column open twice."),
        ("\n-- Jobs with state and statistics.\n", "\n", "schema.sql does not say what jobs is."),
    ],
)
def test_what_is_not_described(monkeypatch: pytest.MonkeyPatch, before: str, after: str, message: str) -> None:
    """A view or a column of a view without a description, and two descriptions of a column, are errors."""
    changed = read_schema_sql().replace(before, after)
    assert changed != read_schema_sql()
    monkeypatch.setattr(schema_docs, "read_schema_sql", lambda: changed)
    with pytest.raises(ValueError, match=f"^{re.escape(message)}"):
        read_schema_docs.__wrapped__()


def test_the_page_has_everything() -> None:
    """The page has a heading for each table, view and question, and as many rows as there are columns."""
    docs = read_schema_docs()
    page = schema_page()
    headings = re.findall(r"^### (\w+)", page, re.MULTILINE)
    assert sorted(headings) == sorted([*(one.name for one in docs.relations), *read_questions()])
    rows = [line for line in page.splitlines() if line.startswith("| `")]
    assert len(rows) == sum(len(one.columns) for one in docs.relations)
    assert page.count("```") % 2 == 0


def test_datasette_metadata() -> None:
    """Views have descriptions, facets that are columns of theirs, and all columns described; tables are hidden."""
    (found,) = datasette_metadata("tilebox")["databases"].values()
    relations = {one.name: one for one in read_schema_docs().relations}
    assert set(found["tables"]) == set(relations)
    for name, table in found["tables"].items():
        columns = [column.name for column in relations[name].columns]
        assert table["description"]
        if relations[name].kind == "TABLE":
            assert (table["hidden"], set(table["columns"]) <= set(columns)) == (True, True)
        else:
            assert list(table["columns"]) == table["sortable_columns"] == columns
            assert table["facets"]
            assert set(table["facets"]) | {table.get("sort_desc", columns[0])} <= set(columns)
    assert set(found["queries"]) == set(read_questions())


def test_questions_name_their_parameters() -> None:
    """A question has the parameters that it describes, reads views only, and is documented."""
    views = {one.name for one in read_schema_docs().views}
    for question in read_questions().values():
        assert set(re.findall(r":(\w+)", question.sql)) == set(question.parameters), question.name
        sources = set(re.findall(r"\b(?:FROM|JOIN) (\w+)", question.sql))
        made = set(re.findall(r"(\w+)(?:\([\w, ]*\))? AS (?:MATERIALIZED )?\(", question.sql)) | {"json_each"}
        assert sources - made <= views, question.name
        assert question.title[0].isupper()
        assert question.text.endswith(".")
