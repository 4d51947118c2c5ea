"""Exports: the rows of a view as files, exactly, and nothing of the store is touched."""

from __future__ import annotations

import csv
import io
import json
import sqlite3
from typing import TYPE_CHECKING, Any
from uuid import UUID

import pytest

from tilebox_local import Client, ExecutionContext, Task
from tilebox_local.errors import ArgumentError, StoreError
from tilebox_local.export.rows import FORMATS, export_rows
from tilebox_local.export.schema_docs import read_schema_docs

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

ODD = 'line\nbreak, "quoted"; é 🛰 =1+1'


class Odd(Task):
    """A span with an event, and a log record, of odd text."""

    text: str

    def execute(self, context: ExecutionContext) -> None:
        """Record."""
        with context.tracer.span(self.text, attributes={"text": self.text, "list": [1, 2.5, True], "big": 2**53 + 1}):
            context.logger.warning("%s\x00!", self.text)


@pytest.fixture
def client(tmp_path: Path) -> Iterator[Client]:
    """A client of a store with two jobs."""
    with Client(tmp_path / "tilebox.db") as client:
        for text in (ODD, "plain"):
            client.jobs().submit("odd", Odd(text))
            client.runner(tasks=[Odd]).run_all()
        yield client


def exported(client: Client, view: str, kind: str, job_id: UUID | None = None) -> tuple[int, str]:
    """How many rows, and the text."""
    target = io.StringIO(newline="")
    return export_rows(client._store, view, target, kind, job_id), target.getvalue()


def expected(client: Client, view: str) -> list[dict[str, Any]]:
    """What SQL gives."""
    frame = client.sql(f"SELECT * FROM {view}")
    return [{key: None if value != value else value for key, value in row.items()} for row in frame.to_dict("records")]


VOLATILE = {"last_seen_at", "written", "transactions", "max_lag_ms", "lock_waits", "lock_wait_ms", "queued"}


def settled(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Rows without what changes with each commit. An older SQLite has 15 digits of what went through JSON."""
    return [
        {
            key: f"{value:.12g}" if isinstance(value, float) else value
            for key, value in row.items()
            if key not in VOLATILE
        }
        for row in rows
    ]


@pytest.mark.parametrize("view", [one.name for one in read_schema_docs().views])
def test_rows_are_those_of_the_view(client: Client, view: str) -> None:
    """Each view in each format has the rows that SQL gives; JSON columns are objects, in CSV they are text."""
    client._store.flush()
    wanted = expected(client, view)
    objects = [
        {key: json.loads(value) if key in ("attributes", "links") and value else value for key, value in row.items()}
        for row in wanted
    ]
    count, text = exported(client, view, "json")
    assert (count, settled(json.loads(text))) == (len(wanted), settled(objects))
    count, text = exported(client, view, "ndjson")
    found = [json.loads(line) for line in text.split("\n")[:-1]]
    assert (count, settled(found)) == (len(wanted), settled(objects))
    count, text = exported(client, view, "csv")
    lines = list(csv.DictReader(io.StringIO(text, newline="")))
    shown = [{key: "" if value is None else value for key, value in row.items()} for row in wanted]
    assert count == len(lines) == len(wanted)
    for line, row in zip(lines, shown, strict=True):
        assert list(line) == list(row)
        typed = {key: type(row[key])(value) for key, value in line.items()}
        assert settled([typed]) == settled([row])


def test_one_job(client: Client) -> None:
    """Of one job, or of one that has nothing: an empty array, no line, or the headings alone."""
    job = client.jobs().query()[0]
    assert {row["job_id"] for row in json.loads(exported(client, "spans", "json", job.id)[1])} == {str(job.id)}
    nobody = UUID(int=5)
    assert exported(client, "spans", "json", nobody) == (0, "[]\n")
    assert exported(client, "spans", "ndjson", nobody) == (0, "")
    count, text = exported(client, "spans", "csv", nobody)
    assert (count, text.count("\r\n")) == (0, 1)


def test_unusable_arguments(client: Client) -> None:
    """No such view or format, and rows that belong to no job, are errors that name what there is."""
    for arguments, message in [
        (("span_records", "csv"), "There is no view 'span_records'."),
        (("spans; drop table x", "csv"), "There is no view 'spans; drop table x'."),
        (("spans", "xml"), "There is no format 'xml'; choose one of csv, json, ndjson."),
        (("writers", "csv", UUID(int=5)), "The rows of writers do not belong to jobs."),
    ]:
        with pytest.raises(ArgumentError) as caught:
            exported(client, *arguments)  # type: ignore[arg-type]
        assert caught.value.message == message


def test_an_old_python(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    """A SQLite of Python that cannot read the tables is named, with what to do instead."""
    monkeypatch.setattr(sqlite3, "sqlite_version_info", (3, 34, 1))
    with pytest.raises(StoreError, match=r"exports need 3\.37 or later\. `tilebox-local sql --csv`"):
        exported(client, "spans", "csv")


def test_nothing_is_left(client: Client, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The snapshot is gone afterwards, also if the target fails, and the store was opened by nobody else."""
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(folder))
    opened = []
    connect = sqlite3.connect
    monkeypatch.setattr(sqlite3, "connect", lambda *args, **named: opened.append(args[0]) or connect(*args, **named))
    for kind in FORMATS:
        exported(client, "spans", kind)
    closed = io.StringIO()
    closed.close()
    with pytest.raises(ValueError, match="closed file"):
        export_rows(client._store, "spans", closed, "csv")
    assert list(folder.iterdir()) == []
    assert [path for path in opened if str(folder) not in path] == []
    assert len(opened) == 4
