"""`jobs`, and how a job is named."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tilebox_local import Client
from tilebox_local.cli import main

if TYPE_CHECKING:
    from collections.abc import Callable

    import pytest

KEYS = [
    "job_id", "name", "state", "submitted_at", "started_at", "stopped_at", "elapsed_ms", "compute_ms", "tasks",
    "queued", "running", "computed", "failed", "skipped", "failed_optional", "trace_id", "job_no",
]  # fmt: skip


def test_newest_first_with_the_columns_of_the_view(ask: Callable[..., Any], db: str) -> None:
    """`jobs --json` is the view `jobs`, newest first, with its columns for keys."""
    rows = ask("jobs")
    assert list(rows[0]) == KEYS
    with Client(db, read_only=True) as client:
        assert rows == client.sql("select * from jobs order by job_no desc").to_dict("records")
    assert [(row["name"], row["state"], row["tasks"]) for row in rows] == [
        ("broken", "FAILED", 1), ("mosaic", "COMPLETED", 3), ("scene", "COMPLETED", 1),
    ]  # fmt: skip


def test_filters(ask: Callable[..., Any]) -> None:
    """State, name, times of submission, limit and order can be asked for, also together."""

    def names(*arguments: str) -> list[str]:
        return [row["name"] for row in ask("jobs", *arguments)]

    second = ask("jobs")[1]["submitted_at"]
    assert names("--state", "failed") == ["broken"]
    assert names("--state", "FAILED", "--state", "completed") == ["broken", "mosaic", "scene"]
    assert names("--state", "running") == []
    assert names("--name", "*o*") == ["broken", "mosaic"]
    assert names("--since", second) == ["broken", "mosaic"]
    assert names("--until", second) == ["scene"]
    assert names("--since", "1h", "--limit", "2") == ["broken", "mosaic"]
    assert names("--until", "1h") == []
    assert names("--sort", "name") == ["broken", "mosaic", "scene"]
    assert names("--sort", "tasks") == ["mosaic", "broken", "scene"]
    assert names("--sort", "failed") == ["broken", "mosaic", "scene"]


def test_table(db: str, capsys: pytest.CaptureFixture[str]) -> None:
    """The table names its columns and cuts nothing when it is no terminal."""
    assert main(["job", "list", "--db", db]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split() == ["job", "state", "name", "elapsed", "tasks", "submitted", "failed"]
    assert [line.split()[2] for line in lines[1:]] == ["broken", "mosaic", "scene"]
    assert main(["jobs", "--state", "running", "--db", db]) == 0
    assert capsys.readouterr() == ("", "No jobs found.\n")


def test_how_a_job_is_named(ask: Callable[..., Any], db: str, capsys: pytest.CaptureFixture[str]) -> None:
    """A job is named by its id, a unique beginning of it with or without hyphens, latest, or name: and its name."""
    ids = {row["name"]: row["job_id"] for row in ask("jobs")}
    for text, name in [
        ("latest", "broken"),
        ("name:mosaic", "mosaic"),
        (ids["scene"], "scene"),
        (ids["scene"].upper(), "scene"),
        (ids["scene"][:-1], "scene"),
        (ids["scene"].replace("-", "")[:24], "scene"),
    ]:
        assert ask("job", "show", text)["name"] == name
    assert main(["show", "--db", db, ids["scene"][:4]]) == 2
    error = capsys.readouterr().err
    assert error.startswith("tilebox-local: Several jobs have an id that begins with ")
    assert [line.split() for line in error.splitlines()[1:]] == sorted([value, key] for key, value in ids.items())
    for text, code in [("0000", 4), ("name:nothing", 4), ("abc", 2), ("scene", 2), ("", 2)]:
        assert main(["show", "--db", db, text]) == code
        captured = capsys.readouterr()
        assert captured.out == ""
        assert len(captured.err.splitlines()) == 1


def test_newest_of_a_name(ask: Callable[..., Any], db: str) -> None:
    """Of several jobs with the same name the newest one is meant."""
    with Client(db) as client:
        from sample_tasks import Scene

        newest = client.jobs().submit("mosaic", Scene("y"))
    assert ask("job", "show", "name:mosaic")["job_id"] == str(newest.id)


def test_store_without_jobs(tmp_path: Any, capsys: pytest.CaptureFixture[str]) -> None:
    """An empty store has no latest job, which is an answer and not a failure of the store."""
    path = str(tmp_path / "empty.db")
    Client(path).close()
    assert main(["show", "--db", path]) == 4
    assert capsys.readouterr() == ("", "tilebox-local: No job 'latest' in this store. It has no jobs yet.\n")
