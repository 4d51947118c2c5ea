"""prune(): what goes, what stays, and that it can be interrupted at any point."""

from __future__ import annotations

import re
import signal
import sys
from contextlib import closing
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import apsw
import pytest
from store_support import log_item, outside, rows, run, run_together, until
from upkeep_support import Leaf, Root, counts, everything, fill, run_jobs

from tilebox_local import Client
from tilebox_local.catalog import sql
from tilebox_local.data import TaskIdentifier, TaskSubmissionGroup, TaskSubmissions
from tilebox_local.engine.jobs import retry_job, submit_job
from tilebox_local.engine.tasks import Position, claim_task
from tilebox_local.errors import ArgumentError, NotFoundError
from tilebox_local.storage.schema import read_schema_sql, statements
from tilebox_local.storage.store import open_store
from tilebox_local.upkeep import prune as prune_module
from tilebox_local.upkeep.check import check_store

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tilebox_local.storage.store import Store
    from tilebox_local.upkeep.prune import PruneResult

DAY_NS = 86_400_000_000_000
NOW_NS = 1_800_000_000_000_000_000
ROWS = {"jobs": "job_records", "tasks": "task_records", "spans": "span_records", "events": "event_records"}
ROWS |= {"logs": "log_records"}


class Clock:
    """The wall clock, which goes a little with each look at it."""

    def __init__(self) -> None:
        self.now_ns = NOW_NS

    def __call__(self) -> int:
        self.now_ns += 1000
        return self.now_ns


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """Time as the library reads it."""
    clock = Clock()
    monkeypatch.setattr("tilebox_local.clock.wall_ns", clock)
    monkeypatch.setattr("tilebox_local.observability.span.time_ns", clock)
    return clock


@pytest.fixture
def client(path: Path) -> Iterator[Client]:
    """A client on a fresh store."""
    with Client(path) as client:
        yield client


def names(client: Client) -> list[str]:
    """The jobs that can be found, in the order of their rows: ids of one millisecond may be the other way round."""
    with client._store.read() as connection:
        rows = connection.execute("SELECT job_id, name FROM jobs ORDER BY job_no").fetchall()
    assert {str(job.id) for job in client.jobs().query()} == {job_id for job_id, _ in rows}
    return [name for _, name in rows]


def deleted(before: dict[str, int], after: dict[str, int]) -> dict[str, int]:
    """How many rows are gone."""
    return {name: before[table] - after[table] for name, table in ROWS.items()}


def told(result: PruneResult) -> dict[str, int]:
    """How many rows a prune says to have deleted."""
    return {name: getattr(result, name) for name in ROWS}


def is_sound(store: Store) -> bool:
    """Whether check() finds nothing at all."""
    assert check_store(store, full=True).problems == ()
    return True


# -- what goes --------------------------------------------------------------------------------------------------


def test_by_count(client: Client) -> None:
    """The jobs that ended first go, with every row of theirs; what belongs to the others is as it was."""
    run_jobs(client, "1", "2")
    before = everything(client._store)
    run_jobs(client, "3", "4")
    with_all = counts(client._store)
    result = client.prune(keep_last=2)
    assert names(client) == ["3", "4"]
    after = everything(client._store)
    for table in (*ROWS.values(), "group_records", "group_dependency_records", "progress_records"):
        assert not set(after[table]) & set(before[table]), table
    assert told(result) == deleted(with_all, counts(client._store))
    assert told(result) == {"jobs": 2, "tasks": 10, "spans": 20, "events": 8, "logs": 8}
    assert is_sound(client._store)


def test_by_age(client: Client, clock: Clock) -> None:
    """Jobs that ended before an instant go; age is a length of time or an instant, a naive one in UTC."""
    for name in "abcde":
        run_jobs(client, name)
        clock.now_ns += DAY_NS
    assert client.prune(older_than=timedelta(days=3.5)).jobs == 2
    assert names(client) == ["c", "d", "e"]
    instant = datetime.fromtimestamp((NOW_NS + 2.5 * DAY_NS) / 1e9, UTC)
    assert client.prune(older_than=instant, keep_last=3).jobs == 0
    assert client.prune(older_than=instant.replace(tzinfo=None)).jobs == 1
    assert names(client) == ["d", "e"]
    assert is_sound(client._store)


def test_by_size(client: Client, path: Path) -> None:
    """The oldest jobs go until the file is as small as asked, and not more of them."""
    client.flush()
    for number in range(12):
        run_jobs(client, str(number), leaves=20)
    client._store.checkpoint()
    size = path.stat().st_size
    result = client.prune(max_bytes=size * 3 // 4)
    assert result.is_log_empty
    assert path.stat().st_size == result.file_bytes <= size * 3 // 4
    assert result.freed_bytes == size - result.file_bytes
    left = names(client)
    assert left == [str(number) for number in range(12)][-len(left) :]
    assert 12 - len(left) == result.jobs
    one_job = size / 12
    assert result.file_bytes > size * 3 // 4 - 2 * one_job
    assert client.prune(max_bytes=size).jobs == 0
    assert client.prune(max_bytes=0, keep_last=2).jobs == len(left) - 2
    assert is_sound(client._store)


def test_the_rules_together(client: Client, clock: Clock) -> None:
    """keep_last protects from age and size; without them it says how many jobs stay."""
    for name in "abcd":
        run_jobs(client, name)
        clock.now_ns += DAY_NS
    assert client.prune(older_than=timedelta(0), keep_last=3).jobs == 1
    assert client.prune(max_bytes=0, keep_last=2).jobs == 1
    assert client.prune(keep_last=5).jobs == 0
    assert names(client) == ["c", "d"]


def test_what_is_not_finished_stays(client: Client) -> None:
    """Waiting and running jobs stay; completed, failed and canceled ones go, the latter with what was withheld."""
    fill(client)
    client.jobs().submit("newest", Leaf(1))
    assert names(client) == ["completed", "completed, too", "failed", "canceled", "running", "waiting", "newest"]
    assert client.prune(keep_last=0).jobs == 4
    assert names(client) == ["running", "waiting", "newest"]
    client.runner(tasks=[Root, Leaf]).run_all()
    assert [job.state.name for job in client.jobs().query()] == ["COMPLETED"] * 3
    assert is_sound(client._store)


def test_the_newest_job_stays(client: Client) -> None:
    """Numbers of rows are not given out twice: the job with the last ones stays, and counts among the last ones."""
    run_jobs(client, "1", "2", "3")
    numbers = "SELECT (SELECT max(job_no) FROM job_records), (SELECT max(task_no) FROM task_records),"
    numbers += " (SELECT max(group_no) FROM group_records), (SELECT max(trace_no) FROM trace_records)"
    with client._store.read() as connection:
        last = connection.execute(numbers).get
    assert client.prune(keep_last=1).jobs == 2
    assert client.prune(keep_last=0, older_than=timedelta(0), max_bytes=0).jobs == 0
    assert names(client) == ["3"]
    with client._store.read() as connection:
        assert connection.execute(numbers).get == last


def test_a_job_of_a_task_has_its_own_trace(client: Client) -> None:
    """Of two jobs that share a trace id, one submitted by a task of the other, each goes by itself."""
    (outer,) = run_jobs(client, "outer")
    with client.tracer.span("elsewhere"):
        pass
    share = "UPDATE trace_records SET trace_id = (SELECT trace_id FROM trace_records WHERE job_no = 1)"
    run_jobs(client, "inner", "newest")
    client._store.transact(lambda connection: connection.execute(f"{share} WHERE job_no = 2").fetchall())
    inner = client.jobs().query()[1]
    spans = client.jobs().query_spans(inner).to_pandas()
    assert client.prune(keep_last=2).jobs == 1
    assert names(client) == ["inner", "newest"]
    assert client.jobs().query_spans(inner).to_pandas().equals(spans)
    with pytest.raises(NotFoundError):
        client.jobs().find(outer)


# -- telemetry of no job ----------------------------------------------------------------------------------------


def jobless(client: Client) -> list[str]:
    """Spans and log records of no job, sorted."""
    query = "SELECT name FROM spans WHERE job_id IS NULL UNION ALL SELECT body FROM logs WHERE job_id IS NULL"
    client.flush()
    with client._store.read() as connection:
        return sorted(name for (name,) in connection.execute(query))


def log(client: Client, body: str, time_ns: int) -> None:
    """A log record outside of any span."""
    item = log_item(client._store, body)
    item.time_ns = time_ns
    client._store.writer.queue.append_log(item)


def test_telemetry_of_no_job_goes_by_age(client: Client, clock: Clock) -> None:
    """Traces whose last record is old go as a whole, log records outside of traces one by one; the rest stays."""
    with client.tracer.span("old") as span:
        span.add_event("event")
        with client.tracer.span("old, below"):
            pass
    log(client, "old log", clock.now_ns)
    with client.tracer.span("begun early"):
        client.flush()
        clock.now_ns += 5 * DAY_NS
        with client.tracer.span("goes on"):
            pass
    with client.tracer.span("new"):
        pass
    log(client, "new log", clock.now_ns)
    client.flush()
    clock.now_ns += DAY_NS
    result = client.prune(older_than=timedelta(days=2))
    assert jobless(client) == ["begun early", "goes on", "new", "new log"]
    assert (result.traces, result.spans, result.events, result.logs) == (1, 2, 1, 1)
    assert is_sound(client._store)


def test_a_trace_in_use_stays(client: Client, clock: Clock) -> None:
    """A trace with an open span stays however old it is, and so does one that got something a moment ago."""
    span = client.tracer_provider.get_tracer("tests").start_span("open")
    opened = "SELECT count(*) FROM span_records WHERE duration_ns IS NULL"
    until(lambda: rows(client._store, opened) == [(1,)])
    clock.now_ns += 10 * DAY_NS
    with client.tracer.span("just now"):
        pass
    with client.tracer.span("newest"):
        pass
    client.flush()
    assert client.prune(older_than=timedelta(0)).traces == 0
    span.end()
    client.flush()
    clock.now_ns += DAY_NS
    assert client.prune(older_than=timedelta(0)).traces == 2
    assert jobless(client) == ["newest"]


def test_size_counts_telemetry_of_no_job(client: Client, clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    """A store full of old log records and traces of no job can be made small by size, and a dry run counts the same."""
    monkeypatch.setattr(prune_module, "_LOGS_PER_UNIT", 50)
    for day in range(5):
        for number in range(200):
            log(client, f"{day} {number} {'x' * 300}", clock.now_ns)
        with client.tracer.span(f"{day}") as span:
            span.set_attribute("payload", "x" * 60_000)
        client.flush()
        clock.now_ns += DAY_NS
    client._store.checkpoint()
    pages, page_size = prune_module._size(client._store)
    assert client.prune(max_bytes=0, dry_run=True).logs == 1000
    assert client.prune(max_bytes=0, dry_run=True, older_than=timedelta(days=2.5)).logs == 1000
    result = client.prune(max_bytes=pages * page_size * 2 // 3)
    days = {name.split()[0] for name in jobless(client)}
    assert result.file_bytes <= pages * page_size * 2 // 3
    assert days in ({"2", "3", "4"}, {"1", "2", "3", "4"})
    client.prune(max_bytes=0)
    assert jobless(client) == ["4"]  # the trace with the last number


def test_late_telemetry_of_what_was_pruned(client: Client) -> None:
    """Spans, events and logs that come after their trace was pruned are found by check, and go with the next prune."""
    run_jobs(client, "1", "2")
    client.prune(keep_last=1)
    late = (
        "INSERT INTO span_records (trace_no, start_ns, span_id, name, resource_no) VALUES (1, 1, 1, 'late', 1)",
        "INSERT INTO event_records VALUES (1, 1, 1, 1, 'late', NULL)",
        "INSERT INTO log_records VALUES (1, 1, 1, NULL, 9, 'INFO', 'late', NULL, 0, 0, 1, 1, NULL)",
    )
    for statement in late:
        client._store.transact(lambda connection, statement=statement: connection.execute(statement).fetchall())
    assert [problem.check for problem in client.check().problems] == [
        "check_span_traces", "check_event_traces", "check_log_traces",
    ]  # fmt: skip
    result = client.prune(keep_last=10)
    assert (result.jobs, result.traces, result.spans, result.events, result.logs) == (0, 0, 1, 1, 1)
    assert is_sound(client._store)


# -- space ------------------------------------------------------------------------------------------------------


def test_the_file_gets_smaller(client: Client, path: Path) -> None:
    """What was deleted is given back to the file system, by as many bytes as the result says."""
    run_jobs(client, *"123456", leaves=30)
    client._store.checkpoint()
    size = path.stat().st_size
    result = client.prune(keep_last=1)
    assert result.is_log_empty
    assert path.stat().st_size == result.file_bytes == size - result.freed_bytes < size * 0.7
    assert path.with_name("store.db-wal").stat().st_size == 0
    with client._store.read() as connection:
        assert connection.pragma("freelist_count") == 0


def test_a_reader_is_in_the_way(client: Client, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """While somebody reads an older state, the file keeps its size, and the result says so."""
    monkeypatch.setattr(prune_module, "_TRUNCATE_TRIES", 2)
    run_jobs(client, *"123456", leaves=30)
    client._store.checkpoint()
    size = path.stat().st_size
    with client._store.snapshot() as connection:
        connection.execute("SELECT count(*) FROM job_records").fetchall()
        result = client.prune(keep_last=1)
        assert not result.is_log_empty
        assert path.stat().st_size == size
    assert client.prune(keep_last=1).is_log_empty
    assert path.stat().st_size == result.file_bytes < size


def test_a_dry_run_changes_nothing(client: Client, clock: Clock) -> None:
    """A dry run tells what a prune would delete; bytes are about right."""
    fill(client)
    run_jobs(client, "1", "2", leaves=100)
    clock.now_ns += DAY_NS
    run_jobs(client, "newest")
    before = everything(client._store)
    for rules in ({"keep_last": 2}, {"older_than": timedelta(hours=1)}):
        expected = client.prune(**rules, dry_run=True)
        assert everything(client._store) == before
        assert expected.is_dry_run
    pages, page_size = prune_module._size(client._store)
    by_size = client.prune(max_bytes=pages * page_size // 2, dry_run=True)
    assert by_size.jobs > 0
    result = client.prune(**rules)
    assert told(result) == told(expected)
    assert result.traces == expected.traces == 1
    assert 0.4 < expected.freed_bytes / result.freed_bytes < 2.5


# -- arguments --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({}, "Say what may go"),
        ({"dry_run": True}, "Say what may go"),
        ({"keep_last": -1}, "keep_last is -1; pass a whole number"),
        ({"keep_last": True}, "keep_last is True"),
        ({"max_bytes": 1.5}, "max_bytes is 1.5"),
        ({"older_than": timedelta(-1)}, "must not be negative"),
        ({"older_than": 30}, "older_than is 30; pass a timedelta or a datetime"),
    ],
)
def test_bad_arguments(client: Client, arguments: dict[str, Any], message: str) -> None:
    """What cannot be meant is refused, with what to pass instead."""
    with pytest.raises(ArgumentError, match=re.escape(message)):
        client.prune(**arguments)


# -- one slice after the other ----------------------------------------------------------------------------------


@pytest.fixture
def tiny_slices(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each transaction deletes one chunk of a few rows."""
    monkeypatch.setattr(prune_module, "_SLICE_S", 0.0)
    monkeypatch.setattr(prune_module, "_FIRST_CHUNK", 3)
    monkeypatch.setattr(prune_module, "_MAX_CHUNK", 3)


@pytest.mark.usefixtures("tiny_slices")
def test_tiny_slices_delete_the_same(client: Client) -> None:
    """A job that takes many transactions is deleted completely, and others commit between any two of them."""
    run_jobs(client, "large", leaves=40)
    run_jobs(client, "newest")
    before = counts(client._store)
    transactions = client._store.stats().transaction_count
    result = client.prune(keep_last=1)
    assert told(result) == deleted(before, counts(client._store))
    assert told(result) == {"jobs": 1, "tasks": 42, "spans": 84, "events": 41, "logs": 41}
    assert client._store.stats().transaction_count - transactions > (42 + 84 + 41 + 41) / 4
    assert is_sound(client._store)


@pytest.mark.usefixtures("tiny_slices")
def test_references_hold_after_each_slice(client: Client) -> None:
    """Between any two transactions every row that is named exists, also if an earlier group waits for a later one."""
    groups = [
        TaskSubmissionGroup([1], [b"1"] * 4, [0] * 4, [0] * 4, [0] * 4, [0] * 4),
        TaskSubmissionGroup([], [b"1"] * 4, [0] * 4, [0] * 4, [0] * 4, [0] * 4),
    ]
    submissions = TaskSubmissions(groups, [""], [TaskIdentifier("tests.Leaf", "v0.0")], ["leaf"])
    submit = partial(submit_job, job_id=uuid4(), name="backwards", trace_id=1, trace_parent="00-1-1-01", now_ns=1)
    client._store.transact(partial(submit, submissions=submissions))
    run_jobs(client, "newest")
    (job,) = [job for job in client.jobs().query() if job.name == "backwards"]
    client.jobs().cancel(job)
    dangling = []

    def look() -> None:
        with client._store.read() as connection:
            dangling.extend(connection.execute("PRAGMA foreign_key_check").fetchall())
            commits.append(connection.execute("SELECT count(*) FROM task_records WHERE job_no = 1").get)

    commits: list[Any] = []
    client._store.writer.on_commit.append(look)
    assert client.prune(keep_last=1).tasks == 8
    assert set(commits) >= {5, 2, 0}
    assert dangling == []


def test_slices_adapt() -> None:
    """A chunk that takes too long is halved, a fast one is doubled, within bounds."""
    assert [prune_module._paced(100, took, 0.002) for took in (0.0005, 0.0015, 0.01)] == [200, 100, 50]
    assert prune_module._paced(4096, 0.0, 0.002) == 4096
    assert prune_module._paced(8, 1.0, 0.002) == 8


KILLED = """
import os, signal, sys
from tilebox_local import Client
from tilebox_local.upkeep import prune
prune._SLICE_S, prune._FIRST_CHUNK, prune._MAX_CHUNK = 0.0, 3, 3
client = Client(sys.argv[1])
left = int(sys.argv[2])
def count():
    global left
    left -= 1
    if not left:
        os.kill(os.getpid(), signal.SIGKILL)
client._store.writer.on_commit.append(count)
client.prune(keep_last=1)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="needs SIGKILL")
@pytest.mark.parametrize("commits", [1, 3, 5, 7, 9, 11, 13])
def test_killed_in_the_middle(path: Path, tmp_path: Path, commits: int) -> None:
    """A prune that is killed leaves a sound store, in which the job is not found; the next prune completes it."""
    with Client(path) as client:
        run_jobs(client, "1", leaves=8)
        run_jobs(client, "2")
        (job,) = [job for job in client.jobs().query() if job.name == "1"]
        client.snapshot(tmp_path / "as it was.db")
    assert run(KILLED, path, commits).returncode == -signal.SIGKILL
    with Client(path) as client:
        assert is_sound(client._store)
        assert names(client) == ["2"]
        for use in (client.jobs().find, client.jobs().retry, client.jobs().cancel, client.jobs().query_spans):
            with pytest.raises(NotFoundError):
                use(job)
        client.flush()
        middle = counts(client._store)
        rest = client.prune(keep_last=10)
        assert told(rest) == deleted(middle, counts(client._store))
        completed = everything(client._store)
        assert is_sound(client._store)
    with Client(tmp_path / "as it was.db") as client:
        client.prune(keep_last=1)
        at_once = everything(client._store)
    for table in ("job", "task", "group", "group_dependency", "progress", "log"):
        assert completed[f"{table}_records"] == at_once[f"{table}_records"]
    numbers = {trace_no for trace_no, _, job_no in at_once["trace_records"] if job_no is not None}
    for table in ("span_records", "event_records"):  # the attempts to use the job have left spans of their own
        assert [row for row in completed[table] if row[0] in numbers] == at_once[table]


def test_a_job_that_is_retried_meanwhile_stays(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    """A failed job that somebody retries after it was chosen and before it is deleted goes on."""
    fill(client)
    run_jobs(client, "newest")
    (failed,) = [job for job in client.jobs().query() if job.name == "failed"]
    original = prune_module._plan

    def plan(*arguments: Any, **options: Any) -> Any:
        chosen = original(*arguments, **options)
        client._store.transact(partial(retry_job, job_id=failed.id, now_ns=NOW_NS))
        return chosen

    monkeypatch.setattr(prune_module, "_plan", plan)
    assert client.prune(keep_last=1).jobs == 5
    assert names(client) == ["failed", "newest"]
    assert is_sound(client._store)


def test_a_runner_goes_on_after_its_last_job_is_pruned(client: Client) -> None:
    """A runner looks beside the task that it did last; if that is gone, it takes the oldest task of any job."""
    run_jobs(client, "1", "2")
    waiting = client.jobs().submit("waiting", Leaf(1))
    assert client.prune(keep_last=0, older_than=timedelta(0)).jobs == 2
    with client._store.read() as connection:
        task_no, identifier_no = connection.execute("SELECT task_no, identifier_no FROM task_records").get
    give_back = "UPDATE task_records SET state = 1, ready = 1, lease_expires_boot_ns = NULL, stopped_ns = 2"
    for position in (Position(1, 1), Position(1, None), Position(2, 7)):
        claimed = client._store.transact(
            lambda connection, position=position: claim_task(
                connection,
                cluster_no=1,
                identifiers=[identifier_no],
                runner_no=1,
                after=position,
                now_ns=NOW_NS,
                lease_expires_boot_ns=1,
            )
        )
        assert claimed.task_no == task_no
        client._store.transact(lambda connection: connection.execute(give_back).fetchall())
    assert client.jobs().find(waiting).state.name in ("RUNNING", "SUBMITTED")


WRITE = """
import sys
from tilebox_local.observability.tracing import WorkflowTracer
from tilebox_local.storage.store import open_store
store = open_store(sys.argv[1])
tracer = WorkflowTracer(store.writer.queue, store.resource(None))
print("ready", flush=True)
sys.stdin.readline()
for number in range(300):
    with tracer.span(f"{sys.argv[2]} {number}"):
        pass
    store.transact(lambda connection: None)
store.close()
"""
PRUNE = """
import sys
from tilebox_local import Client
client = Client(sys.argv[1])
print("ready", flush=True)
sys.stdin.readline()
print(client.prune(keep_last=1).jobs)
client.close()
"""


def test_others_write_and_prune_meanwhile(path: Path) -> None:
    """Two processes write while two others prune: nothing that is new is lost, and each job is deleted once."""
    with Client(path) as client:
        run_jobs(client, *"123456", leaves=60)
    processes = [(WRITE, path, "a"), (WRITE, path, "b"), (PRUNE, path), (PRUNE, path)]
    chooser = "import sys\nexec(sys.argv.pop(1))"
    results = run_together(chooser, [(script, *arguments) for script, *arguments in processes])
    assert [(error, code) for _, error, code in results] == [("", 0)] * 4
    assert sum(int(output) for output, _, _ in results if output) == 5
    found = outside(
        path,
        "SELECT name FROM span_records WHERE trace_no NOT IN (SELECT trace_no FROM trace_records "
        "WHERE job_no IS NOT NULL)",
    )
    assert sorted(found) == sorted((f"{writer} {number}",) for writer in "ab" for number in range(300))
    with closing(open_store(path)) as store:
        assert is_sound(store)


# -- plans ------------------------------------------------------------------------------------------------------

assert sql["prune_spans"]  # the catalog is read when a statement is first asked for
PLANS = {
    "span_to_prune_to": ["SEARCH span_records USING PRIMARY KEY (trace_no=?)"],
    "event_to_prune_to": ["SEARCH event_records USING PRIMARY KEY (trace_no=?)"],
    "log_to_prune_to": ["SEARCH log_records USING PRIMARY KEY (trace_no=?)"],
    "task_to_prune_to": ["SEARCH task_records USING INDEX task_records_by_job (job_no=?)"],
    "prune_tasks": ["SEARCH task_records USING INDEX task_records_by_job (job_no=? AND task_no>?)"],
    "prune_spans": ["SEARCH span_records USING PRIMARY KEY (trace_no=? AND (start_ns,span_id)<(?,?))"],
    "prune_events": ["SEARCH event_records USING PRIMARY KEY (trace_no=? AND (time_ns,span_id)<(?,?))"],
    "prune_logs": ["SEARCH log_records USING PRIMARY KEY (trace_no=? AND (time_ns,log_no)<(?,?))"],
    "prune_progress": ["SEARCH progress_records USING PRIMARY KEY (job_no=? AND task_no>?)"],
    "prune_job": ["SEARCH job_records USING INTEGER PRIMARY KEY (rowid=?)"],
    "prune_trace_of_job": ["SEARCH trace_records USING INDEX trace_records_by_job (job_no=?)"],
    "mark_half_pruned": ["SEARCH job_records USING INTEGER PRIMARY KEY (rowid=?)"],
}
DELETIONS = [name for name in sql if name.startswith(("prune_", "mark_half", "groups_to_prune"))]


@pytest.fixture(scope="module")
def connection() -> apsw.Connection:
    """An empty database with our schema, set up as the writer's is while it prunes."""
    connection = apsw.Connection(":memory:")
    connection.config(apsw.SQLITE_DBCONFIG_ENABLE_QPSG, 1)
    for statement in statements(read_schema_sql()):
        connection.execute(statement).fetchall()
    return connection


def plan(connection: apsw.Connection, name: str) -> list[str]:
    """How SQLite would run a statement of the catalog."""
    values = dict.fromkeys(re.findall(r":(\w+)", sql[name])) or (None,) * sql[name].count("?")
    return [row[3] for row in connection.execute(f"EXPLAIN QUERY PLAN {sql[name]}", values).fetchall()]


@pytest.mark.parametrize("name", PLANS)
def test_plan(connection: apsw.Connection, name: str) -> None:
    """A slice is found by the index that its rows are in, in order."""
    assert plan(connection, name) == PLANS[name]


@pytest.mark.parametrize("name", DELETIONS)
def test_no_deletion_scans(connection: apsw.Connection, name: str) -> None:
    """No statement of a slice reads a whole table."""
    assert [line for line in plan(connection, name) if line.startswith("SCAN") and "_records" in line] == []


def test_all_references_are_known(connection: apsw.Connection) -> None:
    """The foreign keys that lead to what prune deletes are those that it deletes in the order of."""
    tables = [name for (name,) in connection.execute("SELECT name FROM sqlite_schema WHERE type = 'table'")]
    found = {
        (table, key[3])
        for table in tables
        for key in connection.execute(f"PRAGMA foreign_key_list({table})")
        if key[2] in ("job_records", "task_records", "group_records", "trace_records")
    }
    assert found == {
        ("group_records", "job_no"),
        ("group_dependency_records", "depends_on_no"),
        ("group_dependency_records", "group_no"),
        ("task_records", "job_no"),
        ("task_records", "parent_no"),
        ("task_records", "group_no"),
        ("task_records", "branch_no"),
        ("attempt_records", "job_no"),
        ("attempt_records", "task_no"),
        ("progress_records", "job_no"),
        ("progress_records", "task_no"),
        ("trace_records", "job_no"),
    }
