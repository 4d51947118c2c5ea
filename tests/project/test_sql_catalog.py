"""The named statements fit the schema, and the code that uses them."""

from __future__ import annotations

import re
from pathlib import Path

import apsw
import pytest

from tilebox_local.catalog import sql
from tilebox_local.storage.schema import read_schema_sql, statements

assert sql["insert_job"]  # the first look-up reads all files
STATEMENTS = dict(sql)
PACKAGE = Path(__file__).parents[2] / "tilebox_local"


@pytest.fixture
def connection() -> apsw.Connection:
    """An empty database with our schema."""
    connection = apsw.Connection(":memory:")
    for statement in statements(read_schema_sql()):
        connection.execute(statement).fetchall()
    return connection


@pytest.mark.parametrize("name", sorted(STATEMENTS))
def test_each_statement_can_be_prepared(name: str, connection: apsw.Connection) -> None:
    """Every named statement compiles against schema.sql; ":rows" stands for two rows of values."""
    text = sql[name]
    if ":rows" in text:
        columns = re.search(r"\(([^)]*)\)\s*VALUES :rows", text)
        row = ",".join("?" for _ in columns[1].split(",")) if columns else "?"
        text = text.replace(":rows", f"({row}),({row})")
    names = set(re.findall(r":(\w+)", text))
    parameters = dict.fromkeys(names) if names else (None,) * text.count("?")
    assert connection.execute(f"EXPLAIN {text}", parameters).fetchall()


def test_each_statement_is_used() -> None:
    """No named statement is left over, and no name is used that does not exist."""
    code = "\n".join(path.read_text() for path in PACKAGE.rglob("*.py"))
    used = set(re.findall(r'(?:run|run_many|value)\(\s*connection,\s*"(\w+)"', code))
    used |= set(re.findall(r'sql\["(\w+)"\]', code))
    used |= set(re.findall(r'_execute\(connection, "(\w+)"', code))
    used |= set(re.findall(r'_insert_rows\(connection, "\w+", "(\w+)"', code))
    used |= set(re.findall(r'_oldest\(\s*connection,\s*"(\w+)"', code))
    used |= set(re.findall(r'_rows\(store, "(\w+)"', code))
    used |= set(re.findall(r'^    "(check_\w+)":', code, re.MULTILINE))
    assert used == set(STATEMENTS)


def test_sql_has_one_home() -> None:
    """Only the catalog, the engine's and the storage's one-line statements, and what recovery does to every table."""
    pattern = re.compile(r'"\s*(SELECT|INSERT|UPDATE|DELETE)\b[^"]*', re.IGNORECASE)
    found = {
        path.relative_to(PACKAGE).as_posix(): len(found)
        for path in PACKAGE.rglob("*.py")
        if (found := [m for m in pattern.findall(path.read_text()) if m.isupper()])
    }
    assert {name for name in found if not name.startswith("storage/")} <= {
        "engine/tasks.py",
        "upkeep/recover.py",
        "upkeep/repair.py",
    }


def test_schema_documents_every_column() -> None:
    """schema.sql explains each column of the packed tables that is not an id of another table."""
    schema = read_schema_sql()
    tables = re.findall(r"^CREATE TABLE (\w+) \(\n(.*?)\n\)", schema, re.DOTALL | re.MULTILINE)
    assert {name for name, _ in tables} == {
        "store_records", "commit_records", "writer_records", "quarantine_records", "incident_records",
        "resource_records",
        "scope_records",
        "cluster_records", "runner_records", "job_records", "identifier_records", "group_records",
        "group_dependency_records", "task_records", "progress_records", "trace_records", "span_records",
        "event_records", "log_records", "attempt_records",
    }  # fmt: skip
    for name, body in tables:
        before = schema[: schema.index(f"CREATE TABLE {name} (")].rstrip().splitlines()[-1]
        assert before.startswith("--"), f"{name} has no comment"
        for line in body.splitlines():
            column = re.match(r"\s+(\w+_ns)\s+(\w+)", line)
            if column and column[1] not in ("PRIMARY",):
                assert column[2] == "INTEGER", line
