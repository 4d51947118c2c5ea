"""jobs, job show, wait, cancel, retry, and how jobs are named."""

from __future__ import annotations

import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest

from tilebox_local import Client, ExecutionContext, Task

if TYPE_CHECKING:
    from collections.abc import Callable

Cli = Any


class Nothing(Task):
    """Does nothing."""

    def execute(self, context: ExecutionContext) -> None:
        """Nothing."""


def test_jobs(store: str, ids: dict[str, str], cli: Cli) -> None:
    """`jobs` lists jobs, newest first, with state and counts; filters leave others out."""
    found = cli("jobs")
    assert [line.split()[0] for line in found.lines] == ["id", ids["waiting"], ids["bad"], ids["good"]]
    assert [line.split()[1] for line in found.lines[1:]] == ["SUBMITTED", "FAILED", "COMPLETED"]
    assert [row["name"] for row in cli("jobs", "--json").json] == ["waiting", "bad", "good"]
    assert [row["name"] for row in cli("jobs", "--json", "--state", "failed").json] == ["bad"]
    assert [row["name"] for row in cli("jobs", "--json", "--name", "*a*").json] == ["waiting", "bad"]
    assert [row["name"] for row in cli("job", "list", "--json", "--limit", "1").json] == ["waiting"]
    assert len(cli("jobs", "--json", "--since", "1h", "--limit", "0").json) == 3
    nothing = cli("jobs", "--until", "2020-01-01")
    assert (nothing.code, nothing.out, nothing.err) == (0, "", "No jobs.\n")
    assert cli("jobs", "--until", "2020-01-01", "--json").out == "[]\n"


def test_keys_are_the_columns_of_the_view(store: str, cli: Cli) -> None:
    """JSON has the columns of the views, so that SQL and the command line speak of the same."""
    for command, view in [("jobs", "jobs"), ("spans", "spans"), ("logs", "logs")]:
        (row, *_) = cli(*[command] if command == "jobs" else [command, "name:bad"], "--json").json
        columns = cli("sql", f"select * from {view} limit 1", "--json").json[0]
        assert set(row) <= set(columns)


@pytest.mark.parametrize("way", ["id", "beginning", "upper case", "name", "latest"])
def test_ways_to_name_a_job(store: str, ids: dict[str, str], cli: Cli, way: str) -> None:
    """A job is named by its id or its beginning, by its name, or as the latest."""
    text = {
        "id": ids["waiting"],
        "beginning": ids["waiting"][:30],
        "upper case": ids["waiting"].upper(),
        "name": "name:waiting",
        "latest": "latest",
    }[way]
    assert cli("job", "show", text, "--json").json["job_id"] == ids["waiting"]


def test_unknown_jobs(store: str, cli: Cli) -> None:
    """What names no job, or several, is told with exit code 4 or 2, and what to do."""
    missing = cli("job", "show", "ffff")
    assert (missing.code, missing.out) == (4, "")
    hint = "`tilebox-local jobs` lists the jobs of this store."
    assert missing.err == f"tilebox-local: No job 'ffff' in this store. {hint}\n"
    assert cli("bottlenecks", "name:nothing").code == 4
    wrong = cli("spans", "xyz")
    assert (wrong.code, wrong.err.split(".")[0]) == (2, "tilebox-local: 'xyz' is no job")
    several = cli("logs", "0" + cli("jobs", "--json").json[0]["job_id"][1:6])
    assert several.code == 2
    assert several.err.startswith("tilebox-local: '01")
    assert "is the beginning of several job ids: " in several.err


def test_show(store: str, cli: Cli) -> None:
    """`job show` draws the trace, says why a task failed, and folds, filters and adds log records if asked to."""
    found = cli("job", "show", "name:bad")
    assert found.lines[0] == "bad"
    assert found.lines[1].startswith("FAILED  ")
    assert "1 tasks (1 failed)" in found.lines[1]
    below = found.lines[[("task/Divide" in line) for line in found.lines].index(True) + 1]
    assert below.strip(" │└─") == "ZeroDivisionError: division by zero"
    folded = cli("job", "show", "name:bad", "--depth", "1").lines
    assert [line.split("  ")[0] for line in folded[3:]] == ["job/bad (+2, 2 failed)"]
    with_logs = cli("job", "show", "name:bad", "--logs").lines
    assert [line for line in with_logs if line.endswith("INFO  dividing")]
    good = cli("job", "show", "name:good", "--errors").lines
    assert good[2:] == ["No spans."]
    assert cli("job", "show", "--ascii").out.isascii()


def test_a_store_without_jobs(store: str, tmp_path: Any, cli: Cli) -> None:
    """Without jobs there is no latest one; without a store nothing is created."""
    empty = tmp_path / "empty.db"
    Client(empty).close()
    found = cli("job", "show", "--db", str(empty))
    assert (found.code, found.err) == (4, "tilebox-local: No job 'latest' in this store. The store has no jobs yet.\n")
    missing = tmp_path / "missing.db"
    found = cli("jobs", "--db", str(missing))
    assert (found.code, found.err) == (3, f"tilebox-local: There is no store at {missing}. Name one with --db.\n")
    assert not missing.exists()


def test_wait(store: str, ids: dict[str, str], cli: Cli) -> None:
    """`wait` ends with the state of the job as exit code, or with 124 if the time is over."""
    assert (cli("wait", "name:good").code, cli("wait", "name:bad").code) == (0, 1)
    late = cli("wait", "--timeout", "1ms")
    assert (late.code, late.out, late.err) == (124, "", f"Job {ids['waiting']} goes on: SUBMITTED.\n")
    assert cli("wait", "name:good", "--json").json == {"job_id": ids["good"], "state": "COMPLETED"}


def test_wait_for_another_process(store: str, ids: dict[str, str], cli: Cli) -> None:
    """`wait` notices what another process commits."""
    script = "import sys; from tilebox_local.cli import main; sys.exit(main(sys.argv[1:]))"
    with subprocess.Popen(
        [sys.executable, "-c", script, "wait", "name:waiting"], stderr=subprocess.PIPE, text=True
    ) as process:
        assert cli("cancel", "name:waiting").code == 0
        _, err = process.communicate(timeout=30)
    assert (process.returncode, err) == (1, f"Job {ids['waiting']}: CANCELED.\n")


def test_cancel_and_retry(store: str, ids: dict[str, str], cli: Cli) -> None:
    """`cancel` and `retry` change the job, and say what has become of it."""
    found = cli("cancel", "name:waiting", "--json")
    assert (found.code, found.json) == (0, {"job_id": ids["waiting"], "state": "CANCELED"})
    found = cli("retry", ids["bad"])
    assert (found.code, found.out) == (0, "")
    assert found.err == f"1 failed task is queued again.\nJob {ids['bad']}: RUNNING.\n"
    assert cli("cancel").code == 2  # not just any job


@pytest.mark.parametrize("command", ["jobs", "job show"])
def test_store_before_or_after_the_command(
    tmp_path: Any, monkeypatch: pytest.MonkeyPatch, cli: Callable[..., Any], command: str
) -> None:
    """--db is accepted on both sides of the command; the later one wins, and either wins over the environment."""
    first, second = (str(tmp_path / name) for name in ("first", "second"))
    for path in (first, second):
        with Client(path) as client:
            client.jobs().submit(f"in {path}", Nothing())
    monkeypatch.setenv("TILEBOX_LOCAL_DB", second)
    words = command.split()
    for arguments, store in [
        (["--db", first, *words], first),
        ([*words, "--db", first], first),
        (["--db", second, *words, "--db", first], first),
        ([*words, f"--db={second}", "--db", first], first),
        (words, second),
    ]:
        found = cli(*arguments)
        assert found.code == 0
        assert f"in {store}" in found.out
