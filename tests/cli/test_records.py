"""`spans`, `logs` and `sql`: lists, filters and formats."""

from __future__ import annotations

import csv
import io
import json
from typing import TYPE_CHECKING, Any

from tilebox_local import Client
from tilebox_local.cli import main

if TYPE_CHECKING:
    from collections.abc import Callable

    import pytest


def _view(db: str, query: str) -> list[dict[str, Any]]:
    with Client(db, read_only=True) as client:
        frame = client.sql(query).astype(object)
    rows = frame.where(frame.notna(), None).to_dict("records")
    for row in rows:
        row["attributes"] = json.loads(row["attributes"])
    return rows


def test_spans_are_rows_of_the_view(ask: Callable[..., Any], db: str) -> None:
    """`spans --json` is the view `spans` of one job by start, attributes as objects."""
    rows = ask("spans", "name:mosaic")
    assert rows == _view(db, "select * from spans where job_name = 'mosaic' order by start_ns")
    assert rows[3]["attributes"]["scene"] == "a"


def test_logs_are_rows_of_the_view(ask: Callable[..., Any], db: str) -> None:
    """`logs --json` is the view `logs` of one job by time."""
    rows = ask("logs", "name:mosaic")
    assert rows == _view(db, "select * from logs where job_name = 'mosaic' order by time_ns")
    assert [row["body"] for row in rows] == ["mosaic of [1, 2]", "computed a", "computed b"]


def test_filters_of_spans(ask: Callable[..., Any]) -> None:
    """Name, status, task, length, start and number of spans can be asked for."""

    def names(*arguments: str) -> list[str]:
        return [row["name"] for row in ask("spans", *arguments)]

    spans = ask("spans", "name:mosaic")
    assert names("name:mosaic", "--name", "task/*") == ["task/Mosaic", "task/Scene", "task/Scene"]
    assert names("latest", "--status", "error") == ["task/Mosaic"]
    assert names("latest", "--status", "open") == []
    assert names("name:mosaic", "--task", "Scene") == ["task/Scene", "compute"] * 2
    assert names("name:mosaic", "--task", spans[2]["task_id"]) == ["task/Scene", "compute"]
    assert names("name:mosaic", "--limit", "2") == ["task/Scene", "compute"]
    assert names("name:mosaic", "--since", spans[-1]["start_time"]) == ["compute"]
    assert names("--min-duration", "1h") == []
    assert names("name:mosaic", "--min-duration", "0s") == [span["name"] for span in spans]


def test_filters_of_logs(ask: Callable[..., Any], db: str, capsys: pytest.CaptureFixture[str]) -> None:
    """The level is a minimum; a task that is not there is not found."""

    def bodies(*arguments: str) -> list[str]:
        return [row["body"] for row in ask("logs", *arguments)]

    assert bodies("name:mosaic", "--level", "warning") == ["mosaic of [1, 2]"]
    assert bodies("name:mosaic", "--level", "error") == []
    assert bodies("name:mosaic", "--task", "Sc*", "--limit", "1") == ["computed b"]
    assert bodies("name:mosaic", "--name", "other") == []
    assert main(["--db", db, "logs", "--task", "Nothing"]) == 4
    assert capsys.readouterr().err.startswith("tilebox-local: No task 'Nothing' in this store. ")


def test_tables(db: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Tables have headings; attributes are shown on demand."""
    assert main(["--db", db, "spans", "name:scene"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split() == ["start", "duration", "status", "span", "runner", "name", "message"]
    assert [line.split()[5] for line in lines[1:]] == ["job/scene", "task/Scene", "compute"]
    assert main(["--db", db, "logs", "name:scene", "--attributes"]) == 0
    last = capsys.readouterr().out.splitlines()[-1]
    assert "computed x" in last
    assert '"scene":"x"' in last


def test_text_of_a_store_cannot_steer_the_terminal(tmp_path: Any, capsys: pytest.CaptureFixture[str]) -> None:
    """Names with control characters are shown as text by every command that prints them."""
    from sample_tasks import Scene

    path = str(tmp_path / "hostile.db")
    hostile = "\x1b]0;owned\x07\u202e\n\x9b"
    with Client(path) as client:
        client.jobs().submit(hostile, Scene(hostile))
        client.runner(tasks=[Scene]).run_all()
    for command in (
        ["jobs"], ["show", "--logs"], ["spans", "--attributes"], ["logs", "--attributes"], ["logs", "--follow"],
        ["spans", "--follow", "--attributes"], ["tail", "latest", "--since", "1h"], ["wait"], ["retry", "latest"],
        ["sql", "select name from jobs"], ["show", f"name:{hostile}"], ["show", f"name:{hostile}x"],
    ):  # fmt: skip
        main(["--db", path, *command])
        captured = capsys.readouterr()
        assert not set("\x1b\x07\u202e\x9b") & set(captured.out + captured.err), command
        assert "owned" in captured.out + captured.err or command[0] == "logs", command


# -- sql --------------------------------------------------------------------------------------------------------


def test_sql_formats(db: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """`sql` prints a table, JSON or CSV of the rows; the query may come from stdin."""
    query = "select name, tasks, null as empty, x'00ff' as data from jobs order by job_no"
    assert main(["--db", db, "sql", query, "--limit", "2"]) == 0
    assert capsys.readouterr().out == (
        "name    tasks  empty  data\nscene       1         x'00ff'\nmosaic      3         x'00ff'\n"
    )
    monkeypatch.setattr("sys.stdin", io.StringIO(query))
    assert main(["--db", db, "sql", "-", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)[1] == {
        "name": "mosaic", "tasks": 3, "empty": None, "data": {"$bytes": "AP8="},
    }  # fmt: skip
    assert main(["--db", db, "sql", "select 1 as a, 'x,\"y' as b, 2 as a", "--csv"]) == 0
    output = capsys.readouterr().out
    assert output == 'a,b,a\r\n1,"x,""y",2\r\n'
    assert list(csv.reader(io.StringIO(output, newline=""))) == [["a", "b", "a"], ["1", 'x,"y', "2"]]
    assert main(["--db", db, "sql", "select 1 as a, 2 as a", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == [{"a": 1, "a_2": 2}]
    assert main(["--db", db, "sql", "select * from jobs where 0", "--csv"]) == 0
    assert capsys.readouterr().out.startswith("job_id,name,state,")


def test_sql_only_reads_and_ends(db: str, capsys: pytest.CaptureFixture[str]) -> None:
    """What would write is refused as wrong usage; what takes too long is stopped."""
    for query in ("delete from job_records", "select 1; select 2", "nonsense", "", "pragma journal_mode = delete"):
        assert main(["--db", db, "sql", query]) == 2
        captured = capsys.readouterr()
        assert captured.out == ""
        assert len(captured.err.splitlines()) == 1
    endless = "with recursive n(i) as (select 1 union all select i + 1 from n) select count(*) from n"
    assert main(["--db", db, "sql", endless, "--timeout", "0.05"]) == 124
    assert "took longer than 0.05 s" in capsys.readouterr().err
    assert main(["--db", db, "sql", "select 1", "--csv", "--json"]) == 2


def test_sql_needs_no_pandas(db: str) -> None:
    """No command that looks imports pandas."""
    import subprocess
    import sys

    code = (
        "import sys; from tilebox_local.cli import main; "
        f"assert main(['--db', {db!r}, 'sql', 'select 1', '--json']) == 0; assert main(['--db', {db!r}, 'show']) == 0; "
        "print({'pandas', 'pydantic', 'numpy', 'watchdog'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "set()"
