"""The commands that keep a store: doctor, snapshot, prune, check, recover, schema."""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING, Any

import pytest
from terminal import on_terminal

from tilebox_local import Client, ExecutionContext, Task
from tilebox_local.cli import main
from tilebox_local.cli.types import parse_duration, parse_size
from tilebox_local.storage.schema import read_schema_sql

if TYPE_CHECKING:
    from pathlib import Path


class Divide(Task):
    """Divides by its input."""

    by: int

    def execute(self, context: ExecutionContext) -> None:
        """Fail for 0."""
        1 / self.by


@pytest.fixture
def store(tmp_path: Path) -> str:
    """A store with three jobs."""
    path = str(tmp_path / "store.db")
    with Client(path) as client:
        runner = client.runner(tasks=[Divide])
        for number in range(3):
            client.jobs().submit(f"job {number}", Divide(1))
            runner.run_all()
    return path


def test_snapshot(store: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """`snapshot` prints where the copy is; a target that exists is wrong usage unless it may be overwritten."""
    target = tmp_path / "copy.db"
    assert main(["snapshot", str(target), "--db", store]) == 0
    assert capsys.readouterr().out == f"{target}\n"
    assert main(["snapshot", str(target), "--db", store]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith(f"tilebox-local: {target} exists; ")
    assert main(["snapshot", str(target), "--overwrite", "--db", store]) == 0
    assert main(["jobs", "--db", str(target)]) == 0


def test_prune(store: str, capsys: pytest.CaptureFixture[str]) -> None:
    """`prune` prints how many rows of each kind went, a dry run how many would; without a rule it is wrong usage."""
    counts = []
    for arguments in (["--dry-run"], [], []):
        assert main(["--db", store, "prune", "--keep-last", "2", *arguments]) == 0
        captured = capsys.readouterr()
        counts.append(dict(line.rsplit(maxsplit=1) for line in captured.out.splitlines()))
    kinds = ["jobs", "tasks", "traces", "spans", "events", "logs", "freed bytes", "file bytes"]
    assert list(counts[0]) == kinds
    assert [[count[kind] for kind in kinds[:4]] for count in counts] == [["1", "1", "0", "2"]] * 2 + [["0"] * 4]
    assert main(["--db", store, "prune"]) == 2
    assert "Say what may go" in capsys.readouterr().err
    assert main(["--db", store, "prune", "--older-than", "30d", "--max-size", "2GB"]) == 0
    assert capsys.readouterr().out.startswith("jobs         0\n")


def test_lengths_of_time_and_sizes(capsys: pytest.CaptureFixture[str]) -> None:
    """Ages have a unit, sizes may have one: decimal, or binary with an i."""
    ages = {"90s": 90, "1.5m": 90, "12h": 43_200, "30d": 2_592_000, "2W": 1_209_600}
    assert {text: parse_duration(text).total_seconds() for text in ages} == ages
    sizes = {"0": 0, "100": 100, "1k": 1000, "2GB": 2 * 10**9, "1.5 MiB": 3 * 2**19, "1TiB": 2**40}
    assert {text: parse_size(text) for text in sizes} == sizes
    for arguments in (["--older-than", "30"], ["--older-than", "-1d"], ["--max-size", "big"], ["--keep-last", "x"]):
        assert main(["prune", *arguments]) == 2
        error = capsys.readouterr().err
        assert error.startswith(f"tilebox-local: Invalid value for '{arguments[0]}': ")
        assert error.endswith(" Try `tilebox-local prune --help`.\n")


def test_check_and_recover(store: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """`check` exits with 3 if it finds something, and says what; `recover` makes a sound store of it."""
    assert main(["check", "--full", "--db", store]) == 0
    assert capsys.readouterr() == ("", "No problems found.\n")
    with Client(store) as client:
        wrong = "UPDATE job_records SET computed_count = 7 WHERE job_no = 1"
        client._store.transact(lambda connection: connection.execute(wrong).fetchall())
    assert main(["check", "--db", store]) == 3
    captured = capsys.readouterr()
    assert captured.out.startswith("check_job_counts: 1 jobs whose counters are not the numbers of their tasks: job 1 ")
    assert "tilebox-local recover SOURCE TARGET" in captured.err
    target = str(tmp_path / "new.db")
    assert main(["recover", store, target]) == 0
    captured = capsys.readouterr()
    assert ["job_records", "3"] in [line.split() for line in captured.out.splitlines()]
    assert main(["check", "--full", "--db", target]) == 0
    assert main(["recover", store, target]) == 2
    assert main(["recover", str(tmp_path / "missing"), target]) == 2
    assert "is not a file" in capsys.readouterr().err


def test_json_of_upkeep(store: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Each of them prints one JSON object on demand, and messages elsewhere."""

    def ask(*arguments: str) -> dict[str, Any]:
        assert main([*arguments, "--json"]) == 0
        return json.loads(capsys.readouterr().out)

    counts = ask("prune", "--keep-last", "2", "--dry-run", "--db", store)
    assert {name: counts[name] for name in ("jobs", "tasks", "traces", "spans", "is_dry_run")} == {
        "jobs": 1, "tasks": 1, "traces": 0, "spans": 2, "is_dry_run": True,
    }  # fmt: skip
    assert ask("check", "--full", "--db", store) == {"ok": True, "problems": [], "unfinished": []}
    assert ask("snapshot", str(tmp_path / "copy.db"), "--db", store) == {"path": str(tmp_path / "copy.db")}
    assert ask("doctor", "--db", store)["incidents"] == []
    assert ask("recover", store, str(tmp_path / "new.db"))["recovered"]["job_records"] == 3


def test_prune_asks_on_a_terminal_only(store: str) -> None:
    """On a terminal `prune` says what goes and asks; no means that nothing goes, --yes that it does not ask."""
    prune = [sys.executable, "-m", "tilebox_local", "--db", store, "prune", "--keep-last", "2"]
    code, shown = on_terminal(prune, typed="n\n")
    assert code == 0
    assert "Delete 1 jobs with 1 tasks and 2 spans? [y/N]: " in shown
    assert "Nothing was deleted." in shown
    code, shown = on_terminal([*prune, "--yes"])
    assert (code, shown.split("\r\n")[0]) == (0, "jobs         1")


def test_schema(capsys: pytest.CaptureFixture[str]) -> None:
    """`schema` prints schema.sql; it needs no store."""
    assert main(["schema"]) == 0
    assert capsys.readouterr().out == read_schema_sql()
