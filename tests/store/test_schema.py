"""The schema of a store: created once, checked before anything is written, migrated in one transaction."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import stat
import subprocess
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any
from uuid import UUID

import apsw
import pytest
from store_support import change_closed_file, outside, read_line, run, run_ok, run_together, start

from tilebox_local.errors import (
    NotATileboxStoreError,
    SchemaVersionError,
    StoreCorruptError,
    StoreError,
    StoreOpenError,
)
from tilebox_local.storage import schema
from tilebox_local.storage.schema import APPLICATION_ID, SCHEMA_VERSION, read_schema_sql, statements
from tilebox_local.storage.store import Store, open_store

if TYPE_CHECKING:
    from collections.abc import Callable

SQLITE3 = shutil.which("sqlite3")
needs_cli = pytest.mark.skipif(SQLITE3 is None, reason="the system has no sqlite3 command")

# name -> (strict, without rowid)
TABLES = {
    "cluster_records": (1, 0),
    "commit_records": (1, 0),
    "event_records": (1, 1),
    "group_dependency_records": (1, 1),
    "group_records": (1, 0),
    "identifier_records": (1, 0),
    "incident_records": (1, 0),
    "job_records": (1, 0),
    "log_records": (1, 1),
    "attempt_records": (1, 1),
    "progress_records": (1, 1),
    "quarantine_records": (1, 0),
    "resource_records": (1, 0),
    "runner_records": (1, 0),
    "scope_records": (1, 0),
    "span_records": (1, 1),
    "store_records": (1, 1),
    "task_records": (1, 0),
    "trace_records": (1, 0),
    "writer_records": (1, 0),
}
# People have these in their scripts: columns may be added at the end of a view, but none may go.
VIEWS = {
    "events": "time name attributes trace_id span_id job_name job_id time_ns job_no",
    "incidents": "time kind message host pid task_name task_id attempt span_path last_log last_log_at last_seen_at "
    "unseen_ms runner_no incident_no",
    "jobs": "job_id name state submitted_at started_at stopped_at elapsed_ms compute_ms tasks queued running computed "
    "failed skipped failed_optional trace_id job_no",
    "logs": "time severity body attributes trace_id span_id task_id job_name job_id runner logger severity_number "
    "time_ns job_no",
    "runners": "runner service host pid cluster started_at last_seen_at stopped_at has_crashed running_tasks "
    "attributes runner_no",
    "spans": "name duration_ms status status_message start_time end_time trace_id span_id parent_span_id kind "
    "attributes links task_id job_name job_id runner scope start_ns end_ns duration_ns job_no",
    "tasks": "task_id name version state display input cluster submitted_at started_at stopped_at duration_ms "
    "queue_wait_ms attempts retries crashes max_retries optional job_name job_id parent_id runner_no task_no job_no",
    "trends": "job_id name number state submitted_at elapsed_ms compute_ms queue_wait_ms tasks failed error_rate "
    "retries history median_elapsed_ms elapsed_ratio percentile_rank slower_p job_no",
    "writers": "host pid opened_at last_seen_at ended_at has_crashed queued written dropped quarantined redacted "
    "transactions failed_transactions lock_waits lock_wait_ms max_lag_ms writer_no",
    "attempts": "task_id name version attempt outcome runner ready_at started_at stopped_at queue_wait_ms duration_ms "
    "job_name job_id ready_ns started_ns stopped_ns identifier_no runner_no task_no job_no",
    "span_durations": "name count open failed total_ms self_ms mean_ms p50_ms p95_ms p99_ms max_ms share "
    "job_name job_id "
    "trace_id job_no trace_no",
    "task_durations": "name version count open failed total_ms mean_ms p50_ms p95_ms p99_ms max_ms share "
    "job_name job_id "
    "job_no",
    "queue_waits": "name version attempts wait_ms mean_wait_ms p50_wait_ms p95_wait_ms max_wait_ms run_ms wait_share "
    "retries retry_cost_ms lost lost_cost_ms released released_cost_ms job_name job_id job_no",
    "critical_path": "step task_id name attempt outcome runner delay_ms queue_wait_ms run_ms share "
    "started_at stopped_at "
    "job_name job_id started_ns stopped_ns ready_ns runner_no task_no job_no",
    "concurrency": "time running queued duration_ms job_name job_id time_ns job_no",
    "runner_use": "runner attempts failed busy_ms idle_ms utilization longest_idle_ms job_name job_id runner_no job_no",
    "stragglers": "task_id name attempt runner duration_ms median_ms fence_ms started_at job_name job_id started_ns "
    "job_no",
    "failures": "kind name failed_at exception_type exception_message stacktrace status_message duration_ms task_id "
    "runner trace_id span_id parent_span_id job_name job_id failed_ns start_ns task_no job_no",
    "bottlenecks": "basis rank name count duration_ms share job_name job_id trace_id job_no trace_no",
}


def count_spans(store: Store) -> int:
    """Spans that readers of this process see."""
    with store.read() as connection:
        return connection.execute("SELECT count(*) FROM span_records").get


def add_span(connection: apsw.Connection, number: int, *, name: str = "s", duration_ns: int | None = 1) -> None:
    """Insert a span outside of any job."""
    connection.execute("INSERT OR IGNORE INTO trace_records (trace_no, trace_id) VALUES (1, zeroblob(16))")
    connection.execute("INSERT OR IGNORE INTO resource_records (resource_no, attributes) VALUES (1, '{}')")
    connection.execute(
        "INSERT INTO span_records (trace_no, start_ns, span_id, duration_ns, name, resource_no) "
        "VALUES (1, ?, ?, ?, ?, 1)",
        (number, number, duration_ns, name),
    )


def cli(path: Path | str, *arguments: str) -> str:
    """Output of the system's sqlite3 command, which must not complain."""
    assert SQLITE3 is not None
    done = subprocess.run(
        [SQLITE3, *arguments[:-1], str(path), arguments[-1]], capture_output=True, text=True, timeout=30, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


# -- a fresh store ----------------------------------------------------------------------------------------------


def test_fresh_store_says_what_it_is(path: Path) -> None:
    """A new file carries our application id and schema version, in WAL mode and with pages that can be given back."""
    with closing(open_store(path)) as store, store.read() as connection:
        names = ("application_id", "user_version", "journal_mode", "page_size", "auto_vacuum", "encoding")
        found = {name: connection.pragma(name) for name in names}
    assert found == {
        "application_id": 0x54424C58,
        "user_version": SCHEMA_VERSION,
        "journal_mode": "wal",
        "page_size": 4096,
        "auto_vacuum": 2,
        "encoding": "UTF-8",
    }
    header = path.read_bytes()[:100]
    assert header[:16] == b"SQLite format 3\x00"
    assert header[68:72] == b"TBLX"
    assert int.from_bytes(header[60:64], "big") == SCHEMA_VERSION


def test_fresh_store_holds_the_rows_that_code_relies_on(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A new store has its facts, our scope, the default cluster and the trace of what has none; nothing else."""
    monkeypatch.setattr("tilebox_local.clock.wall_ns", lambda: 1_700_000_000_000_000_001)
    with closing(open_store(path)) as store, store.read() as connection:
        rows = {name: connection.execute(f"SELECT * FROM {name}").fetchall() for name in TABLES}
    facts = dict(rows.pop("store_records"))
    assert str(UUID(facts.pop("store_id"))) != str(UUID(int=0))
    assert facts == {"created_ns": 1_700_000_000_000_000_001}
    assert {name: found for name, found in rows.items() if found} == {
        "commit_records": [(1, 0)],
        "scope_records": [(1, "tilebox.com/observability", "")],
        "cluster_records": [(1, "default", "Default", None, 0, None)],
        "trace_records": [(0, bytes(16), None)],
    }


def test_all_tables_are_strict(store: Store) -> None:
    """Exactly the known tables exist, and all of them are STRICT."""
    with store.read() as connection:
        query = "SELECT name, strict, wr FROM pragma_table_list WHERE schema = 'main' AND type = 'table'"
        found = {name: (strict, wr) for name, strict, wr in connection.execute(query) if name != "sqlite_schema"}
    assert found == TABLES


def test_instants_and_lengths_are_integers(store: Store) -> None:
    """Every column that ends in _ns is an INTEGER, and no column of a table holds a time in any other unit."""
    with store.read() as connection:
        query = (
            "SELECT l.name || '.' || c.name, c.type FROM pragma_table_list l JOIN pragma_table_info(l.name) c "
            "WHERE l.schema = 'main' AND l.type = 'table'"
        )
        types = dict(connection.execute(query).fetchall())
    instants = {name: kind for name, kind in types.items() if name.endswith("_ns")}
    assert len(instants) > 10
    assert set(instants.values()) == {"INTEGER"}
    assert [name for name in types if re.search(r"(_at|_ms|_us|_s|_time|_seconds)$", name)] == []


def test_views_keep_their_columns(store: Store) -> None:
    """The views are those that README and ARCHITECTURE name, with the columns that people use."""
    with store.read() as connection:
        names = [name for (name,) in connection.execute("SELECT name FROM sqlite_schema WHERE type = 'view'")]
        found = {name: " ".join(c for _, c, *_ in connection.execute(f"PRAGMA table_info({name})")) for name in names}
    assert found == VIEWS


def test_files_are_private(path: Path) -> None:
    """The database, its log, its shared memory and its lock can be read by the owner only, whatever the umask says."""
    before = os.umask(0)
    try:
        with closing(open_store(path)) as store:
            store.transact(lambda connection: add_span(connection, 1))
            assert count_spans(store) == 1
            modes = {file.name: oct(stat.S_IMODE(file.stat().st_mode)) for file in path.parent.iterdir()}
    finally:
        os.umask(before)
    assert modes == dict.fromkeys(["store.db", "store.db-wal", "store.db-shm", "store.db.lock"], "0o600")
    assert sorted(file.name for file in path.parent.iterdir()) == ["store.db", "store.db.lock"]


# -- the script -------------------------------------------------------------------------------------------------


def split_by_sqlite(script: str) -> list[str]:
    """The statements of a script as SQLite itself finds their ends."""
    found, start_at = [], 0
    for match in re.finditer(";", script):
        if apsw.complete(script[start_at : match.end()]):
            found.append(script[start_at : match.end()].strip())
            start_at = match.end()
    return found


def without_comments(script: str) -> str:
    """A script without its comments. None of ours has a string with two dashes."""
    return "\n".join(line.split("--", 1)[0].rstrip() for line in script.splitlines())


def test_the_schema_is_split_as_sqlite_would() -> None:
    """Our splitter finds the ends of all statements of schema.sql where SQLite's own tokenizer finds them."""
    ours = [without_comments(statement).strip() for statement in statements(read_schema_sql())]
    assert ours == [without_comments(statement).strip() for statement in split_by_sqlite(read_schema_sql())]
    assert sum(statement.startswith("CREATE TRIGGER") for statement in ours) >= 2


@pytest.mark.parametrize(
    ("script", "expected"),
    [
        ("", []),
        ("\n\n-- only a comment; nothing else\n", []),
        ("SELECT 1;", ["SELECT 1;"]),
        ("SELECT 1;  -- why; not\n\nSELECT\n  2;\n", ["SELECT 1;  -- why; not", "SELECT\n  2;"]),
        (
            "CREATE TRIGGER t AFTER INSERT ON a BEGIN\n  DELETE FROM b;\n  DELETE FROM c;\nEND;\nSELECT 3;",
            ["CREATE TRIGGER t AFTER INSERT ON a BEGIN\n  DELETE FROM b;\n  DELETE FROM c;\nEND;", "SELECT 3;"],
        ),
        ("SELECT CASE 1 WHEN 1 THEN 2\nEND;\nSELECT 4;", ["SELECT CASE 1 WHEN 1 THEN 2\nEND;", "SELECT 4;"]),
    ],
)
def test_statements(script: str, expected: list[str]) -> None:
    """Scripts are split at the ends of statements, not at semicolons in comments or triggers."""
    assert statements(script) == expected


@pytest.mark.parametrize("script", ["SELECT 1", "SELECT 1;\nSELECT 2 -- ;", "CREATE TRIGGER t BEGIN\n SELECT 1;\n"])
def test_a_script_that_ends_too_early_is_refused(script: str) -> None:
    """A script that was cut off does not run up to where it was cut."""
    with pytest.raises(ValueError, match="ends in the middle of a statement"):
        statements(script)


# Introduced after SQLite 3.37 (2021-11): a tool of that age could not read a schema that uses them.
NEWER_THAN_3_37 = {
    "operators -> and ->> (3.38)": r"->",
    "functions of 3.38": r"\b(unixepoch|format)\s*\(",
    "IS [NOT] DISTINCT FROM (3.39)": r"\bDISTINCT\s+FROM\b",
    "RIGHT and FULL JOIN (3.39)": r"\b(RIGHT|FULL)\s+(OUTER\s+)?JOIN\b",
    "functions of 3.41 to 3.43": r"\b(unhex|timediff|octet_length|json_error_position)\s*\(",
    "functions of 3.44": r"\b(concat|concat_ws|string_agg)\s*\(",
    "modifier subsec (3.42)": r"'(subsec|subsecond)'",
    "JSONB (3.45)": r"\bjsonb",
    "functions of 3.46 and later": r"\b(json_pretty|json_array_insert|if|unistr|median|percentile\w*)\s*\(",
    "digits grouped by _ (3.46)": r"(?<!\w)\d+_\d",
}


@pytest.mark.parametrize("what", NEWER_THAN_3_37)
def test_schema_uses_nothing_newer_than_3_37(what: str) -> None:
    """The stored schema and its views use no syntax or function that came after SQLite 3.37."""
    code = re.sub(r"'[0-9]*_[^']*'", "''", without_comments(read_schema_sql()))
    assert re.findall(NEWER_THAN_3_37[what], code, re.IGNORECASE) == []


@needs_cli
def test_schema_runs_in_the_systems_sqlite(tmp_path: Path) -> None:
    """The whole schema, and every view of it, works in the SQLite that the system happens to have."""
    database = tmp_path / "by-hand.db"
    (tmp_path / "schema.sql").write_text(read_schema_sql())
    cli(database, f".read '{tmp_path / 'schema.sql'}'")
    found = {name: cli(database, f"PRAGMA table_info({name})") for name in VIEWS}
    columns = {name: " ".join(line.split("|")[1] for line in text.splitlines()) for name, text in found.items()}
    assert columns == VIEWS
    assert [cli(database, f"SELECT * FROM {name}") for name in VIEWS] == [""] * len(VIEWS)


@needs_cli
def test_readme_query_in_the_command_line_tool(store: Store, path: Path) -> None:
    """The query of the README finds the five longest spans of a store that is in use; open spans come last."""
    durations = [2_500_000, 1_000_000_000, None, 1, 1_500_000, 999_999_999, 0]

    def insert(connection: apsw.Connection) -> None:
        for number, duration_ns in enumerate(durations):
            add_span(connection, number, name=f"span {number}", duration_ns=duration_ns)
        connection.execute("UPDATE span_records SET status_code = 2 WHERE span_id = 1")
        connection.execute("UPDATE span_records SET status_code = 1 WHERE span_id = 5")

    store.transact(insert)
    query = "select name, duration_ms, status from spans order by duration_ms desc limit 5"
    assert cli(path, query).splitlines() == [
        "span 1|1000.0|ERROR",
        "span 5|999.999999|OK",
        "span 0|2.5|UNSET",
        "span 4|1.5|UNSET",
        "span 3|1.0e-06|UNSET",
    ]


@needs_cli
def test_views_answer_in_the_command_line_tool(path: Path) -> None:
    """All views show a real job in the system's sqlite3 while our process has the store open."""
    script = """
import sys
from tilebox_local import Client, Task
from tilebox_local.observability.logging import configure_console_logging

class Step(Task):
    def execute(self, context):
        with context.tracer.span("inner") as span:
            span.add_event("reached", {"n": 1})
            context.logger.warning("careful", why="because")

configure_console_logging(enabled=False)
client = Client(sys.argv[1])
job = client.jobs().submit("job", Step())
client.runner(tasks=[Step]).run_all()
print(job.id, flush=True)
sys.stdin.read()
client.close()
"""
    with start(script, path) as process:
        job_id = read_line(process)
        rows = {name: json.loads(cli(path, "-json", f"SELECT * FROM {name}") or "[]") for name in VIEWS}
        assert process.communicate("") == ("", "")
    assert {name: [list(row) for row in found] for name, found in rows.items()} == {
        name: [columns.split()] * count
        for name, count, columns in [
            ("attempts", 1, VIEWS["attempts"]),
            ("bottlenecks", 6, VIEWS["bottlenecks"]),
            ("concurrency", 3, VIEWS["concurrency"]),
            ("critical_path", 1, VIEWS["critical_path"]),
            ("events", 2, VIEWS["events"]),
            ("failures", 0, VIEWS["failures"]),
            ("incidents", 0, VIEWS["incidents"]),
            ("jobs", 1, VIEWS["jobs"]),
            ("logs", 1, VIEWS["logs"]),
            ("queue_waits", 1, VIEWS["queue_waits"]),
            ("runner_use", 1, VIEWS["runner_use"]),
            ("runners", 1, VIEWS["runners"]),
            ("span_durations", 3, VIEWS["span_durations"]),
            ("spans", 3, VIEWS["spans"]),
            ("stragglers", 0, VIEWS["stragglers"]),
            ("task_durations", 1, VIEWS["task_durations"]),
            ("tasks", 1, VIEWS["tasks"]),
            ("trends", 1, VIEWS["trends"]),
            ("writers", 1, VIEWS["writers"]),
        ]
    }
    assert {row["job_id"] for name in ("events", "jobs", "logs", "spans", "tasks") for row in rows[name]} == {job_id}
    assert sorted(row["name"] for row in rows["spans"]) == ["inner", "job/job", "task/Step"]
    assert sorted(row["name"] for row in rows["events"]) == ["log.message", "reached"]
    assert [(row["name"], row["state"], row["computed"]) for row in rows["jobs"]] == [("job", "COMPLETED", 1)]
    assert [(row["name"], row["state"]) for row in rows["tasks"]] == [("Step", "COMPUTED")]
    assert [(row["severity"], row["body"]) for row in rows["logs"]] == [("WARN", "careful")]
    assert rows["runners"][0]["stopped_at"] is not None
    iso = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{9}Z")
    times = [
        value
        for found in rows.values()
        for row in found
        for name, value in row.items()
        if name.endswith("_at") or name in ("time", "start_time", "end_time")
    ]
    assert times.pop(times.index(None)) is rows["writers"][0]["ended_at"]  # the client is still open
    assert all(iso.fullmatch(value) for value in times)


# -- files that are not ours, or not whole ----------------------------------------------------------------------


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """A closed store of a few hundred pages."""
    path = tmp_path_factory.mktemp("whole") / "store.db"
    with closing(open_store(path)) as store:
        store.transact(lambda connection: [add_span(connection, number, name="x" * 300) for number in range(2000)])
    return path.read_bytes()


def foreign(*statements: str) -> Callable[[Path, bytes], None]:
    """A database that somebody else made."""
    return lambda path, whole: change_closed_file(path, *statements)


def content(make: Callable[[bytes], bytes]) -> Callable[[Path, bytes], None]:
    """A file with bytes made from those of a good store."""
    return lambda path, whole: path.write_bytes(make(whole)) and None


def version(number: int) -> Callable[[Path, bytes], None]:
    """A good store with another schema version."""

    def make(path: Path, whole: bytes) -> None:
        path.write_bytes(whole)
        change_closed_file(path, f"PRAGMA user_version = {number}")

    return make


STRANGER = "is a SQLite database of another program. Nothing was written to it; choose another path for the store."
NO_SQLITE = "is not a SQLite database. Nothing was written to it; choose another path for the store."
DAMAGED = ": database disk image is malformed. Save what is readable with `tilebox-local recover "

ODD_FILES = {
    "table of another program": (foreign("CREATE TABLE t (x)"), NotATileboxStoreError, STRANGER),
    "application_id of another program": (foreign("PRAGMA application_id = 5"), NotATileboxStoreError, STRANGER),
    "user_version of another program": (foreign("PRAGMA user_version = 1000"), NotATileboxStoreError, STRANGER),
    "WAL file of another program": (
        foreign("PRAGMA journal_mode = wal", "CREATE TABLE t (x)"),
        NotATileboxStoreError,
        STRANGER,
    ),
    "half created": (foreign(f"PRAGMA application_id = {APPLICATION_ID}"), StoreError, "is half created"),
    "newer major version": (version(2000), SchemaVersionError, "was written by a newer tilebox-local (schema 2000"),
    "much newer version": (version(2**31 - 1), SchemaVersionError, "was written by a newer tilebox-local"),
    "older without migration": (version(999), SchemaVersionError, "has schema 999, and there is no way from it"),
    "text": (content(lambda whole: b"hello world\n" * 100), NotATileboxStoreError, NO_SQLITE),
    "one byte": (content(lambda whole: whole[:1]), NotATileboxStoreError, NO_SQLITE),
    "cut in the magic": (content(lambda whole: whole[:15]), NotATileboxStoreError, NO_SQLITE),
    "cut after the magic": (content(lambda whole: whole[:16]), NotATileboxStoreError, NO_SQLITE),
    "cut in the header": (content(lambda whole: whole[:50]), StoreCorruptError, DAMAGED),
    "cut after the header": (content(lambda whole: whole[:100]), StoreCorruptError, DAMAGED),
    "cut before a page could end": (content(lambda whole: whole[:511]), StoreCorruptError, DAMAGED),
    "cut where a small page ends": (content(lambda whole: whole[:512]), StoreCorruptError, DAMAGED),
    "cut in the first page": (content(lambda whole: whole[:2048]), StoreCorruptError, DAMAGED),
    "cut after the first page": (content(lambda whole: whole[:4096]), StoreCorruptError, DAMAGED),
    "cut in half": (content(lambda whole: whole[: len(whole) // 2]), StoreCorruptError, DAMAGED),
    "first page overwritten": (
        content(lambda whole: whole[:100] + b"\xaa" * 3996 + whole[4096:]),
        StoreCorruptError,
        DAMAGED,
    ),
}


@pytest.mark.parametrize("kind", ODD_FILES)
def test_odd_files_are_refused_untouched(kind: str, path: Path, whole: bytes) -> None:
    """A file that is not ours, not whole or too new is refused with the fitting error, and not a byte of it changes."""
    make, error, message = ODD_FILES[kind]
    make(path, whole)
    before = (path.read_bytes(), path.stat().st_mtime_ns, path.stat().st_mode)
    with pytest.raises(StoreError) as caught:
        open_store(path)
    assert type(caught.value) is error
    assert message in str(caught.value)
    assert str(caught.value).startswith(str(path))
    assert (path.read_bytes(), path.stat().st_mtime_ns, path.stat().st_mode) == before
    assert {file.name for file in path.parent.iterdir()} <= {"store.db", "store.db.lock"}


def test_a_damaged_page_is_reported_when_it_is_read(path: Path, whole: bytes) -> None:
    """Damage beyond the first pages raises StoreCorruptError from the read that meets it, with the way to rescue."""
    middle = len(whole) // 2
    path.write_bytes(whole[:middle] + b"\xaa" * 8192 + whole[middle + 8192 :])
    with (
        closing(open_store(path)) as store,
        pytest.raises(StoreCorruptError, match=r"malformed\. Save what is readable with `tilebox-local recover FILE "),
    ):
        count_spans(store)


def test_what_another_program_left_in_its_log_stays_there(path: Path) -> None:
    """Refusing a database of another program that crashed does not checkpoint or delete its write-ahead log."""
    script = """
import os, sqlite3, sys
connection = sqlite3.connect(sys.argv[1], isolation_level=None)
connection.execute("PRAGMA journal_mode = wal")
connection.execute("CREATE TABLE t (x)")
connection.execute("INSERT INTO t VALUES (1)")
os._exit(0)
"""
    run_ok(script, path)
    files = [path, path.with_name("store.db-wal")]
    before = [file.read_bytes() for file in files]
    with pytest.raises(NotATileboxStoreError):
        open_store(path)
    assert [file.read_bytes() if file.exists() else None for file in files] == before


def test_a_directory_is_refused(tmp_path: Path) -> None:
    """A directory is no store; the message suggests a file in it."""
    with pytest.raises(StoreOpenError) as caught:
        open_store(tmp_path)
    assert str(caught.value) == f"{tmp_path} is a directory. Name a file in it, such as tilebox.db."
    assert isinstance(caught.value, OSError)
    assert list(tmp_path.iterdir()) == []


def test_a_missing_directory_is_not_made(tmp_path: Path) -> None:
    """A store in a directory that does not exist is refused, and the directory is not created."""
    with pytest.raises(StoreOpenError) as caught:
        open_store(tmp_path / "missing" / "store.db")
    where = tmp_path / "missing"
    assert str(caught.value) == f"{where / 'store.db'} cannot be created: {where} does not exist. Create it first."
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(not Path("/proc/self").is_dir(), reason="needs a /proc, where nobody may create files")
def test_a_place_where_no_file_can_be_made_is_refused() -> None:
    """Where the system refuses to create the file, also to root, the error says so and what to check."""
    with pytest.raises(StoreOpenError) as caught:
        open_store("/proc/store.db")
    assert re.fullmatch(
        r"/proc/store\.db cannot be opened: .+\. Check that the directory exists and that you may write to it\.",
        str(caught.value),
    )


AS_NOBODY = """
import os, pathlib, sys
from tilebox_local.errors import StoreOpenError
from tilebox_local.storage.store import open_store

folder, name = pathlib.Path(sys.argv[1]), sys.argv[2]
open_store(folder / "warm-up" / "store.db").close()  # loads what is loaded on first use
if os.getuid() == 0:
    os.setresgid(65534, 65534, 65534)
    os.setresuid(65534, 65534, 65534)
try:
    open_store(folder / name)
except StoreOpenError as error:
    print(error)
"""


@pytest.mark.skipif(not hasattr(os, "setresuid"), reason="needs a Unix where a process can give up its rights")
@pytest.mark.parametrize(
    "name",
    [
        "read-only/store.db",
        "file.db",
        "closed/store.db",
    ],
)
def test_missing_rights_are_named(name: str, tmp_path_factory: pytest.TempPathFactory) -> None:
    """Without the right to write or enter the directory, or to open the lock, the error names path and reason."""
    folder = tmp_path_factory.mktemp("rights")
    for parent in [folder, *folder.parents][:3]:  # other users must be able to get here
        parent.chmod(parent.stat().st_mode | 0o011)
    for directory in ("warm-up", "read-only", "closed"):
        (folder / directory).mkdir()
    (folder / "file.db").touch(0o400)
    (folder / "file.db.lock").touch(0o600 if os.getuid() == 0 else 0o000)
    (folder / "warm-up").chmod(0o1777)
    (folder / "read-only").chmod(0o555)
    (folder / "closed").chmod(0o700 if os.getuid() == 0 else 0o000)
    assert re.fullmatch(
        rf"{folder / name} cannot be \w+: .*Permission denied.*\. Check that the directory exists and that you may "
        r"write to it\.\n",
        run_ok(AS_NOBODY, folder, name),
    )
    assert list((folder / "read-only").iterdir()) == []


def test_a_lock_that_is_a_link_is_not_followed(path: Path, tmp_path: Path) -> None:
    """A symbolic link in place of the lock file is refused, so that nobody can make us create files elsewhere."""
    path.with_name("store.db.lock").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(StoreOpenError, match="symbolic links"):
        open_store(path)
    assert not (tmp_path / "elsewhere").exists()


def test_an_empty_file_becomes_a_store(path: Path) -> None:
    """A file of 0 bytes, such as mktemp makes, is taken as a new store; it stays the same file."""
    path.touch(0o600)
    inode = path.stat().st_ino
    store = open_store(path)
    store.close()
    assert path.stat().st_ino == inode
    assert outside(path, "SELECT count(*) FROM spans") == [(0,)]


def test_a_newer_major_version_is_noticed_while_the_store_is_open(store: Store, path: Path) -> None:
    """When another process has migrated the file beyond what this one knows, nothing more is written to it."""
    store.transact(lambda connection: add_span(connection, 1))
    run_ok(BUMP, path, 2000)
    for _ in range(2):
        with pytest.raises(SchemaVersionError, match="was written by a newer tilebox-local") as caught:
            store.transact(lambda connection: add_span(connection, 2))
        assert (caught.value.found, caught.value.supported) == (2000, SCHEMA_VERSION)
    assert count_spans(store) == 1
    run_ok(BUMP, path, SCHEMA_VERSION + 1)
    store.transact(lambda connection: add_span(connection, 2))
    assert count_spans(store) == 2


BUMP = """
import sqlite3, sys
connection = sqlite3.connect(sys.argv[1])
connection.execute(f"PRAGMA user_version = {sys.argv[2]}")
connection.commit()
connection.close()
"""


def test_a_newer_minor_version_can_be_used(path: Path) -> None:
    """A store of a newer minor version, which only adds, is read and written; its version and additions stay."""
    open_store(path).close()
    change_closed_file(
        path,
        "ALTER TABLE span_records ADD COLUMN colour TEXT",
        "CREATE TABLE extra_records (x INTEGER) STRICT",
        f"PRAGMA user_version = {SCHEMA_VERSION + 1}",
    )
    with closing(open_store(path)) as store:
        store.transact(lambda connection: add_span(connection, 7))
    assert outside(path, "SELECT span_id, colour FROM span_records") == [(7, None)]
    assert outside(path, "SELECT user_version FROM pragma_user_version") == [(SCHEMA_VERSION + 1,)]
    assert outside(path, "SELECT count(*) FROM extra_records") == [(0,)]


# -- creating ---------------------------------------------------------------------------------------------------


def test_a_failed_creation_leaves_nothing(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """When creating the schema fails half way, no table remains, and the next attempt creates the whole store."""
    good = read_schema_sql()
    monkeypatch.setattr(schema, "read_schema_sql", lambda: f"{good}\nCREATE TABLE span_records (x);\n")
    with pytest.raises(StoreError, match="table span_records already exists"):
        open_store(path)
    assert outside(path, "SELECT count(*) FROM sqlite_schema") == [(0,)]
    assert outside(path, "SELECT * FROM pragma_application_id, pragma_user_version") == [(0, 0)]
    monkeypatch.undo()
    open_store(path).close()
    assert outside(path, "SELECT count(*) FROM spans") == [(0,)]


def test_a_creation_that_is_killed_leaves_nothing(path: Path) -> None:
    """A process that dies while it creates the schema leaves a file that the next one can turn into a store."""
    script = """
import os, signal, sys
from tilebox_local import clock
from tilebox_local.storage.store import open_store
clock.wall_ns = lambda: os.kill(os.getpid(), signal.SIGKILL)  # asked for after the last table was made
open_store(sys.argv[1])
"""
    assert run(script, path).returncode == -signal.SIGKILL
    with closing(open_store(path)) as store:
        store.transact(lambda connection: add_span(connection, 1))
    assert outside(path, "SELECT count(*) FROM span_records") == [(1,)]
    assert outside(path, "SELECT count(*) FROM store_records") == [(2,)]


RACE = """
import sys
from tilebox_local.storage.store import open_store
from tilebox_local.observability.tracing import WorkflowTracer
print("ready", flush=True)
sys.stdin.readline()
store = open_store(sys.argv[1])
with WorkflowTracer(store.writer.queue, store.resource(None)).span(sys.argv[2]):
    pass
store.close()
"""


def test_first_open_by_many_processes(path: Path) -> None:
    """Eight processes that open a new path at the same time make one store, and none of them sees an error."""
    assert run_together(RACE, [(path, number) for number in range(8)]) == [("", "", 0)] * 8
    assert outside(path, "SELECT key, count(*) FROM store_records GROUP BY key") == [
        ("created_ns", 1),
        ("store_id", 1),
    ]
    assert outside(path, "SELECT name FROM span_records ORDER BY name") == [(str(n),) for n in range(8)]
    assert outside(path, "SELECT count(*) FROM writer_records") == [(8,)]
    assert outside(path, "SELECT integrity_check FROM pragma_integrity_check") == [("ok",)]


# -- migrating --------------------------------------------------------------------------------------------------

STEPS = {
    1001: "-- one more\nALTER TABLE span_records ADD COLUMN colour TEXT;\nUPDATE span_records SET colour = 'red';\n",
    1002: "CREATE TABLE colour_records (\n  colour TEXT\n) STRICT;\n"
    "CREATE TRIGGER coloured AFTER INSERT ON span_records BEGIN\n"
    "  INSERT INTO colour_records (colour) VALUES (new.colour);\nEND;\n",
}


@pytest.fixture
def old_store(path: Path) -> Path:
    """A closed store of this version with one span."""
    with closing(open_store(path)) as store:
        store.transact(lambda connection: add_span(connection, 1))
    return path


def use_schema(monkeypatch: pytest.MonkeyPatch, number: int, steps: dict[int, str]) -> None:
    """Pretend to be a later version of the package."""
    monkeypatch.setattr(schema, "SCHEMA_VERSION", number)
    monkeypatch.setattr(schema, "migration_files", lambda: steps)


def test_migration(old_store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """All steps after the file's version run in order; the data stays, and the store works in its new form."""
    use_schema(monkeypatch, 1002, {1000: "SELECT this is not run;\n", **STEPS, 1003: "nor is this;\n"})
    with closing(open_store(old_store)) as store:
        store.transact(lambda connection: add_span(connection, 2))
    assert outside(old_store, "SELECT span_id, colour FROM span_records") == [(1, "red"), (2, None)]
    assert outside(old_store, "SELECT user_version FROM pragma_user_version") == [(1002,)]
    assert outside(old_store, "SELECT colour FROM colour_records") == [(None,)]
    with closing(open_store(old_store)) as store:  # nothing is left to do
        assert count_spans(store) == 2


def test_a_failing_migration_is_undone(old_store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """If a later step fails, the earlier ones are undone too: the file stays at its version and can be used."""
    use_schema(monkeypatch, 1002, {1001: STEPS[1001], 1002: "INSERT INTO no_such_table VALUES (1);\n"})
    before = outside(old_store, "SELECT type, name, sql FROM sqlite_schema ORDER BY name")
    with pytest.raises(StoreError, match="no such table: no_such_table"):
        open_store(old_store)
    assert outside(old_store, "SELECT type, name, sql FROM sqlite_schema ORDER BY name") == before
    assert outside(old_store, "SELECT user_version FROM pragma_user_version") == [(1000,)]
    monkeypatch.undo()
    with closing(open_store(old_store)) as store:
        assert count_spans(store) == 1


def test_migration_without_a_way(old_store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file for which no migration leads to this version is refused with both versions, and is not touched."""
    use_schema(monkeypatch, 1002, {1001: STEPS[1001]})
    before = old_store.read_bytes()
    with pytest.raises(SchemaVersionError) as caught:
        open_store(old_store)
    assert (caught.value.found, caught.value.supported) == (1000, 1002)
    assert old_store.read_bytes() == before


def test_migration_files_are_found_by_number(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The number of a migration's file name is the version that it leads to; other files do not count."""
    folder = tmp_path / "migrations"
    folder.mkdir()
    for name in ("1002_second.sql", "1001_first_step.sql", "notes.sql", "1003_later.sql.bak", "12_short.sql"):
        (folder / name).write_text(name)
    real: Any = schema.resources.files
    monkeypatch.setattr(
        schema.resources, "files", lambda name: tmp_path if name == "tilebox_local.storage" else real(name)
    )
    assert list(schema.migration_files().items()) == [(1001, "1001_first_step.sql"), (1002, "1002_second.sql")]


def test_two_processes_migrate_once(old_store: Path) -> None:
    """Processes that find an old file at the same time migrate it once."""
    script = f"""
import sys
from tilebox_local.storage import schema
from tilebox_local.storage.store import open_store
schema.SCHEMA_VERSION = 1001
schema.migration_files = lambda: {{1001: {STEPS[1001]!r}}}
print("ready", flush=True)
sys.stdin.readline()
open_store(sys.argv[1]).close()
"""
    assert run_together(script, [(old_store,)] * 3) == [("", "", 0)] * 3
    assert outside(old_store, "SELECT span_id, colour FROM span_records") == [(1, "red")]


def test_the_wheels_copy_of_the_schema_comes_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An installed package reads the schema that was packed with it."""
    (tmp_path / "schema.sql").write_text("SELECT 'packed';\n")
    monkeypatch.setattr(schema.resources, "files", lambda name: tmp_path)
    assert schema.read_schema_sql.__wrapped__() == "SELECT 'packed';\n"


def test_this_process_uses_one_sqlite() -> None:
    """Nothing in the package imports the standard library's sqlite3, the second SQLite that would destroy locks."""
    script = """
import pkgutil, sys, importlib, tilebox_local
for module in pkgutil.walk_packages(tilebox_local.__path__, "tilebox_local."):
    if not module.name.endswith("__main__"):
        importlib.import_module(module.name)
print(sorted(name for name in sys.modules if "sqlite3" in name))
"""
    assert run_ok(script) == "[]\n"
