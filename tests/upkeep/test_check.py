"""check(): a sound store has no problems; each rule that is broken by hand is reported."""

from __future__ import annotations

from contextlib import closing
from typing import TYPE_CHECKING

import pytest
from store_support import change_closed_file
from upkeep_support import fill

from tilebox_local import Client
from tilebox_local.storage.store import open_store
from tilebox_local.upkeep import check as check_module
from tilebox_local.upkeep.check import CheckResult, Problem, check_store

if TYPE_CHECKING:
    from pathlib import Path

PAGE = 4096


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """A store with jobs in all states."""
    path = tmp_path_factory.mktemp("whole") / "store.db"
    with Client(path) as client:
        fill(client)
    return path.read_bytes()


@pytest.fixture
def broken(path: Path, whole: bytes) -> Path:
    """A copy of it to break."""
    path.write_bytes(whole)
    return path


def check(path: Path, *, full: bool = False) -> CheckResult:
    """What is found in a file."""
    with closing(open_store(path)) as store:
        return check_store(store, full=full)


@pytest.mark.parametrize("full", [False, True])
def test_a_sound_store(broken: Path, full: bool) -> None:
    """A store with jobs in all states, running and canceled ones among them, has no problems."""
    assert check(broken, full=full) == CheckResult(problems=(), unfinished=())


def test_the_client_checks(path: Path) -> None:
    """Client.check() tells the same of a store that is in use."""
    with Client(path) as client:
        fill(client)
        assert client.check().ok
        assert client.check(full=True).ok


TASK = "(SELECT min(task_no) FROM task_records WHERE state = {})"
QUEUED, RUNNING, COMPUTED = (TASK.format(state) for state in (1, 2, 3))
# Which rule is broken by which statement.
DAMAGES = {
    "job counts": ("check_job_counts", "UPDATE job_records SET computed_count = 7 WHERE job_no = 1"),
    "state behind the triggers": (
        "check_job_counts",
        "DROP TRIGGER task_records_changed_state",
        f"UPDATE task_records SET state = 5 WHERE task_no = {COMPUTED}",
    ),
    "roots": ("check_roots", "UPDATE job_records SET last_root_no = last_root_no + 1 WHERE job_no = 1"),
    "unsettled children": (
        "check_children",
        "UPDATE task_records SET unsettled_count = 1 WHERE first_child_no IS NOT NULL",
    ),
    "children": ("check_children", "UPDATE task_records SET first_child_no = NULL WHERE first_child_no IS NOT NULL"),
    "unsettled tasks": (
        "check_group_counts",
        "UPDATE group_records SET unsettled_count = 5 WHERE unsettled_count IS NOT NULL",
    ),
    "tasks that are not counted": (
        "check_group_counts",
        "UPDATE group_records SET unsettled_count = NULL WHERE unsettled_count IS NOT NULL",
    ),
    "dependencies": ("check_group_dependencies", "UPDATE group_records SET dependency_count = 1 WHERE group_no = 1"),
    "ready while running": ("check_ready", f"UPDATE task_records SET ready = 1 WHERE task_no = {RUNNING}"),
    "never ready": ("check_ready", "UPDATE task_records SET ready = 0"),
    "ready though canceled": (
        "check_ready",
        "UPDATE task_records SET ready = 1 WHERE job_no = (SELECT job_no FROM jobs WHERE name = 'canceled')",
    ),
    "no lease": ("check_running", f"UPDATE task_records SET lease_expires_boot_ns = NULL WHERE task_no = {RUNNING}"),
    "no runner": ("check_running", f"UPDATE task_records SET runner_no = NULL WHERE task_no = {RUNNING}"),
    "lease at rest": ("check_running", f"UPDATE task_records SET lease_expires_boot_ns = 1 WHERE task_no = {COMPUTED}"),
    "state": ("check_states", f"UPDATE task_records SET state = 9 WHERE task_no = {COMPUTED}"),
    "group of another job": ("check_families", f"UPDATE task_records SET group_no = 1 WHERE task_no = {RUNNING}"),
    "parent of another job": ("check_families", f"UPDATE task_records SET parent_no = 1 WHERE task_no = {RUNNING}"),
    "its own parent": ("check_families", "UPDATE task_records SET parent_no = task_no WHERE task_no = 2"),
    "no trace": ("check_job_traces", "UPDATE trace_records SET job_no = NULL WHERE job_no = 1"),
    "trace of spans": ("check_span_traces", "UPDATE span_records SET trace_no = 999 WHERE trace_no = 1"),
    "trace of events": ("check_event_traces", "UPDATE event_records SET trace_no = 999 WHERE trace_no = 1"),
    "trace of logs": ("check_log_traces", "UPDATE log_records SET trace_no = 999 WHERE trace_no = 0"),
    "open span": (
        "check_open_spans",
        "UPDATE span_records SET duration_ns = NULL WHERE name = 'leaf 0'",
        "UPDATE runner_records SET stopped_ns = 1",
    ),
    "missing job": ("foreign_key_check", "DELETE FROM job_records WHERE job_no = 1"),
    "missing index": ("schema", "DROP INDEX task_records_waiting"),
    "missing trigger": ("schema", "DROP TRIGGER task_records_inserted"),
    "missing view": ("schema", "DROP VIEW runners"),
    "resource": ("check_span_references", "UPDATE span_records SET resource_no = 99 WHERE trace_no = 1"),
    "logger": ("check_log_references", "UPDATE log_records SET scope_no = 99 WHERE trace_no = 0"),
    "attributes": ("check_attributes", "UPDATE span_records SET attributes = '{' WHERE name = 'leaf 0'"),
    "attributes of a resource": ("check_attributes", "UPDATE resource_records SET attributes = 'x'"),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_what_is_broken_is_found(broken: Path, damage: str) -> None:
    """A row that breaks a rule makes the check of that rule fail, with an example."""
    rule, *statements = DAMAGES[damage]
    change_closed_file(broken, *statements)
    result = check(broken, full=True)
    found = {problem.check: problem for problem in result.problems}
    assert not result.ok
    assert found[rule].count >= len(found[rule].examples) >= 1
    assert all(found[rule].examples)


def test_every_rule_has_a_damage() -> None:
    """No rule is left out above."""
    rules = {*check_module._RULES, *check_module._FULL_RULES, "foreign_key_check", "schema"}
    assert {rule for rule, *_ in DAMAGES.values()} == rules


def test_problems_in_words(broken: Path) -> None:
    """A problem says what is wrong, how often, and where, with at most three examples."""
    change_closed_file(broken, "UPDATE job_records SET computed_count = computed_count + 1")
    (problem,) = check(broken).problems
    says = "job {} counts {} tasks queued/running/computed/failed/skipped/failed optional, but has {}"
    assert problem == Problem(
        "check_job_counts",
        "jobs whose counters are not the numbers of their tasks",
        6,
        (
            says.format(1, "0/0/6/0/0/0", "0/0/5/0/0/0"),
            says.format(2, "0/0/6/0/0/0", "0/0/5/0/0/0"),
            says.format(3, "1/0/1/1/0/0", "1/0/0/1/0/0"),
        ),
    )
    assert str(problem).startswith("6 jobs whose counters are not the numbers of their tasks: job 1 counts ")


def pages_of(path: Path, name: str) -> int:
    """The root page of a table or an index, counted from 0."""
    with closing(open_store(path)) as store, store.read() as connection:
        root = connection.execute("SELECT rootpage FROM sqlite_schema WHERE name = ?", (name,)).get
    assert isinstance(root, int)
    return root - 1


def test_a_damaged_page(broken: Path) -> None:
    """A page of noise is found by the quick check; what cannot be read because of it is named, too."""
    page = pages_of(broken, "progress_records")
    content = broken.read_bytes()
    broken.write_bytes(content[: page * PAGE] + b"\xaa" * PAGE + content[(page + 1) * PAGE :])
    found = {problem.check for problem in check(broken).problems}
    assert "quick_check" in found


def test_an_index_that_is_not_its_table(broken: Path) -> None:
    """An index that lacks an entry is found by the full check only."""
    page = pages_of(broken, "job_records_by_submitted")
    content = bytearray(broken.read_bytes())
    count = int.from_bytes(content[page * PAGE + 3 : page * PAGE + 5], "big")
    assert count == 6
    # The last entry is as the one before it: another time.
    end = page * PAGE + 8 + 2 * count
    content[end - 2 : end] = content[end - 4 : end - 2]
    broken.write_bytes(content)
    assert "integrity_check" in {problem.check for problem in check(broken, full=True).problems}


def test_too_little_time(broken: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What there is no time for is named, and is no problem; a full check takes the time it needs."""
    monkeypatch.setattr(check_module, "_QUICK_TIMEOUT_S", -1.0)
    result = check(broken)
    assert result.ok
    assert set(result.unfinished) == {"quick_check", "foreign_key_check", "schema", *check_module._RULES}
    assert check(broken, full=True).unfinished == ()


def test_a_long_check_is_interrupted(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A check that is under way when the time is over is given up, and its connection can be used again."""
    monkeypatch.setattr(check_module, "_STEPS", 1)
    times = iter([0.0, 0.0, 0.0])
    monkeypatch.setattr(check_module.time, "monotonic", lambda: next(times, 1000.0))
    with closing(open_store(path)) as store:
        assert "quick_check" in check_store(store).unfinished
        with store.read() as connection:
            assert connection.execute("SELECT count(*) FROM store_records").get == 2
