"""export, schema in all its forms, and questions with parameters."""

from __future__ import annotations

import csv
import json
import shutil
import subprocess
from typing import TYPE_CHECKING, Any

import pytest

from tilebox_local.cli import main
from tilebox_local.export.questions import read_questions, read_questions_sql
from tilebox_local.export.schema_page import schema_page
from tilebox_local.storage.schema import read_schema_sql

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


def test_to_stdout(db: str, ask: Callable[..., Any], capsys: pytest.CaptureFixture[str]) -> None:
    """Without --output, data goes to stdout, as CSV or as asked for; nothing is said."""
    spans = ask("sql", "select * from spans where job_name = 'mosaic'")
    assert main(["--db", db, "export", "spans", "--job", "name:mosaic", "--format", "json"]) == 0
    captured = capsys.readouterr()
    assert (json.loads(captured.out), captured.err) == (spans, "")
    assert main(["--db", db, "export", "spans", "--job", "name:mosaic"]) == 0
    rows = list(csv.DictReader(capsys.readouterr().out.splitlines()))
    assert [row["span_id"] for row in rows] == [span["span_id"] for span in spans]


@pytest.mark.parametrize(("name", "kind"), [("x.csv", "csv"), ("x.json", "json"), ("x.jsonl", "ndjson"), ("x", "csv")])
def test_to_a_file(db: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str, kind: str) -> None:
    """The extension of the file is the format, CSV if it has none; the number of rows is said on stderr."""
    target = tmp_path / name
    assert main(["--db", db, "export", "jobs", "--output", str(target)]) == 0
    assert capsys.readouterr() == ("", f"3 rows in {target}\n")
    written = target.read_bytes()
    assert main(["--db", db, "export", "jobs", "--format", kind]) == 0
    assert written.decode() == capsys.readouterr().out
    assert main(["--db", db, "export", "tasks", "--output", str(target)]) == 2
    assert target.read_bytes() == written
    assert main(["--db", db, "export", "tasks", "--overwrite", "--output", str(target)]) == 0
    assert target.read_bytes() != written


def test_wrong_exports(db: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Unknown views and jobs are errors, and leave no file."""
    target = tmp_path / "x.csv"
    for arguments, code, message in [
        (["nothing"], 2, "There is no view 'nothing'. Choose one of jobs, tasks, "),
        (["spans", "--job", "name:nothing"], 4, "No job 'name:nothing' in this store."),
        (["writers", "--job", "latest"], 2, "The rows of writers do not belong to jobs. Export all of them."),
        (["spans", "--format", "xml"], 2, "Invalid value for '--format'"),
    ]:
        assert main(["--db", db, "export", *arguments, "--output", str(target)]) == code
        captured = capsys.readouterr()
        assert (captured.out, message in captured.err) == ("", True), captured.err
        assert not target.exists()


def test_a_broken_target(db: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A folder that is not there is named."""
    assert main(["--db", db, "export", "spans", "--output", str(tmp_path / "no" / "x.csv")]) == 3
    assert str(tmp_path / "no") in capsys.readouterr().err


def test_schema(db: str, capsys: pytest.CaptureFixture[str]) -> None:
    """`schema` prints schema.sql, the questions, the page of both, or metadata for datasette, named as the file is."""
    for arguments, text in [
        ([], read_schema_sql()),
        (["--format", "questions"], read_questions_sql()),
        (["--format", "markdown"], schema_page()),
    ]:
        assert main(["schema", *arguments]) == 0
        assert capsys.readouterr().out == text
    assert main(["--db", "somewhere/else.db", "schema", "--format", "datasette"]) == 0
    metadata = json.loads(capsys.readouterr().out)
    assert list(metadata["databases"]) == ["else"]
    assert set(metadata["databases"]["else"]["queries"]) == set(read_questions())


def test_questions(ask: Callable[..., Any], db: str, capsys: pytest.CaptureFixture[str]) -> None:
    """`sql @name` asks a question: of the latest job unless -p names one, with nothing for what may be empty."""
    latest = ask("sql", "@slowest_spans")
    assert latest == ask("sql", "@slowest_spans", "-p", "job_id=name:broken")
    assert {row["name"] for row in latest} == {"job/broken", "task/Mosaic"}
    found = ask("sql", "@search_spans", "-p", "job_id=name:mosaic", "-p", ":name=task/*", "--limit", "2")
    assert [row["name"].partition("/")[0] for row in found] == ["task", "task"]
    assert ask("sql", "@search_spans", "-p", "min_ms=3600000") == []
    for arguments, code, message in [
        (["@nothing"], 2, "there is no question @nothing; there are @recent_failures, @flaky_tasks, "),
        (["@why_slow"], 2, "@why_slow needs -p name=VALUE, the name of the spans."),
        (["@why_slow", "-p", "name"], 2, "'name' is not NAME=VALUE."),
        (["@slowest_spans", "-p", "job_id=name:nothing"], 4, "No job 'name:nothing'"),
    ]:
        assert main(["--db", db, "sql", *arguments]) == code
        assert message in capsys.readouterr().err


def test_parameters(ask: Callable[..., Any], db: str, capsys: pytest.CaptureFixture[str]) -> None:
    """-p gives values to a statement: numbers as numbers, all else as text."""
    query = "select :a as a, :b as b, :c as c, :d as d, :e as e, :f as f"
    values = ["a=5", "b=-2.50", "c=007", "d=x=y", "e=", "f=123456789012345678901"]
    (row,) = ask("sql", query, *(word for value in values for word in ("-p", value)))
    assert row == {"a": 5, "b": -2.5, "c": "007", "d": "x=y", "e": "", "f": "123456789012345678901"}
    assert main(["--db", db, "sql", query, "-p", "a=1"]) == 2
    assert "asks for the parameter 'b'" in capsys.readouterr().err


def test_each_question_in_the_shell(db: str) -> None:
    """Debian's sqlite3, which is older than ours, answers each question as docs/schema.md has it."""
    program = shutil.which("sqlite3")
    if program is None:
        pytest.skip("There is no sqlite3 on this machine.")
    for question in read_questions().values():
        parameters = "".join(f".parameter set :{name} \"'x'\"\n" for name in question.parameters)
        script = f".bail on\n{parameters}{question.sql};\n"
        done = subprocess.run([program, "-readonly", db], input=script, capture_output=True, text=True, check=False)
        assert (done.returncode, done.stderr) == (0, ""), question.name
