"""recover(): what is readable of a damaged store comes back, and the new store is sound.

The oracle does not know how SQLite stores rows: each row carries a text that is nowhere else, so that looking for it
tells the pages that the row is on. TILEBOX_LOCAL_TEST_EXAMPLES sets the number of damaged stores, 2000 for a night.
"""

from __future__ import annotations

import os
import random
import re
import signal
import sys
from collections import defaultdict
from contextlib import closing
from typing import TYPE_CHECKING, Any

import pytest
from store_support import change_closed_file, make_spans, outside, read_line, run, run_ok, start
from upkeep_support import Broken, Leaf, Root, counts, everything, fill, run_jobs

import tilebox_local
from tilebox_local import Client
from tilebox_local.errors import (
    ArgumentError,
    NotATileboxStoreError,
    SchemaVersionError,
    StoreBusyError,
    StoreCorruptError,
)
from tilebox_local.storage.store import open_store
from tilebox_local.upkeep.check import check_store
from tilebox_local.upkeep.recover import RecoverResult, recover

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

CASES = int(os.environ.get("TILEBOX_LOCAL_TEST_EXAMPLES") or 50)
PAGE = 4096
# What of a row is the same in the new store, whatever happened to its neighbours, and where it has its mark.
MARKED = {
    "span_records": ("*", "name"),
    "event_records": ("*", "name"),
    "log_records": ("*", "body"),
    "task_records": ("task_no, task_id, job_no, state, input, submitted_ns, display", "display"),
    "job_records": ("job_no, job_id, name, trace_parent, submitted_ns", "name"),
}
MARK = re.compile(rb"mark-\w+-\d+#")


def mark_all(path: Path) -> None:
    """Give each row of a closed file its mark; every fifth span and log record goes on for some pages."""
    statements = ["PRAGMA foreign_keys = 0"]
    for table, key in (("span_records", "span_id"), ("event_records", "span_id"), ("log_records", "log_no")):
        column = MARKED[table][1]
        order = f"(SELECT count(*) FROM {table} o WHERE (o.trace_no, o.{key}) <= ({table}.trace_no, {table}.{key}))"
        statements.append(f"UPDATE {table} SET {column} = 'mark-{table}-' || {order} || '#'")
        statements.append(
            f"UPDATE {table} SET attributes = json_object('k', replace(hex(zeroblob(300)), '00', {column})) "
            f"WHERE abs({key}) % 5 = 0"
        )
    statements.append("UPDATE task_records SET display = 'mark-task_records-' || task_no || '#'")
    statements.append("UPDATE job_records SET name = 'mark-job_records-' || job_no || '#'")
    change_closed_file(path, *statements, "VACUUM", "PRAGMA journal_mode = delete")


def make(path: Path, *, spans: int, jobs: int) -> bytes:
    """A store with jobs in all states, and some more, marked."""
    with Client(path) as client:
        fill(client)
        runner = client.runner(tasks=[Root, Leaf, Broken])
        for number in range(jobs):
            client.jobs().submit(f"job {number}", Root(8))
            runner.run_all()
        with client.tracer.span("top"):
            for number in range(spans):
                with client.tracer.span(f"span {number}") as span:
                    if number % 3 == 0:
                        span.add_event("event")
    mark_all(path)
    return path.read_bytes()


@pytest.fixture(scope="module")
def stores(tmp_path_factory: pytest.TempPathFactory) -> list[bytes]:
    """A small store and a larger one, whose trees have several levels."""
    folder = tmp_path_factory.mktemp("stores")
    return [make(folder / "small.db", spans=20, jobs=1), make(folder / "large.db", spans=1500, jobs=25)]


def marked_rows(path: Path) -> dict[bytes, set[tuple[str, Any]]]:
    """Each mark with the rows that have it: one, unless bits were flipped in the mark of another one."""
    found: dict[bytes, set[tuple[str, Any]]] = defaultdict(set)
    with closing(open_store(path)) as store, store.read() as connection:
        for table, (columns, mark) in MARKED.items():
            for row in connection.execute(f"SELECT {mark}, {columns} FROM {table}"):
                if MARK.fullmatch(str(row[0]).encode()):  # else it stands for a lost one
                    found[row[0].encode()].add((table, row[1:]))
    return found


def pages_of_marks(content: bytes) -> dict[bytes, set[int]]:
    """The pages that each mark is on, counted from 0."""
    found = defaultdict(set)
    for page in range(len(content) // PAGE):
        for mark in MARK.findall(content[page * PAGE : (page + 1) * PAGE]):
            found[mark].add(page)
    return found


# -- damages ----------------------------------------------------------------------------------------------------


def some_pages(content: bytes, chance: random.Random) -> list[int]:
    count = len(content) // PAGE
    return chance.sample(range(count), max(1, int(count * chance.choice((0.01, 0.05, 0.2)))))


def noise(content: bytes, chance: random.Random) -> tuple[bytes, set[int]]:
    """Random pages are overwritten with noise."""
    damaged = bytearray(content)
    pages = some_pages(content, chance)
    for page in pages:
        damaged[page * PAGE : (page + 1) * PAGE] = chance.randbytes(PAGE)
    return bytes(damaged), set(pages)


def zeros(content: bytes, chance: random.Random) -> tuple[bytes, set[int]]:
    """Random pages are zero."""
    damaged = bytearray(content)
    pages = some_pages(content, chance)
    for page in pages:
        damaged[page * PAGE : (page + 1) * PAGE] = bytes(PAGE)
    return bytes(damaged), set(pages)


def first_page(content: bytes, chance: random.Random) -> tuple[bytes, set[int]]:
    """The header, the schema and a few other pages are zero, the pointer map among them now and then."""
    pages = {0, *chance.sample(range(1, len(content) // PAGE), chance.choice((0, 1, 4)))}
    damaged = bytearray(content)
    for page in pages:
        damaged[page * PAGE : (page + 1) * PAGE] = bytes(PAGE)
    return bytes(damaged), pages


def flips(content: bytes, chance: random.Random) -> tuple[bytes, set[int]]:
    """Bits are flipped, a few per page."""
    damaged = bytearray(content)
    pages = some_pages(content, chance)
    for page in pages:
        for _ in range(chance.choice((1, 1, 3))):
            damaged[page * PAGE + chance.randrange(PAGE)] ^= 1 << chance.randrange(8)
    return bytes(damaged), set(pages)


def cut(content: bytes, chance: random.Random) -> tuple[bytes, set[int]]:
    """The end is missing, not always at the end of a page."""
    size = chance.randrange(PAGE, len(content))
    return content[:size], set(range(size // PAGE, len(content) // PAGE))


DAMAGES: list[Callable[[bytes, random.Random], tuple[bytes, set[int]]]] = [noise, zeros, first_page, flips, cut]


@pytest.mark.parametrize("seed", range(CASES))
def test_rows_on_intact_pages_come_back(seed: int, stores: list[bytes], path: Path, tmp_path: Path) -> None:
    """Every row all of whose pages are intact is in the new store, and no row that was never there; it is sound."""
    chance = random.Random(seed)
    damage = DAMAGES[seed % 5]
    content = stores[seed // 5 % 2]
    path.write_bytes(content)
    before = marked_rows(path)
    content = path.read_bytes()  # now in WAL mode
    places = pages_of_marks(content)
    assert len(before) > 100
    assert set(before) <= set(places)
    damaged, pages = damage(content, chance)
    path.write_bytes(damaged)

    result = recover(path, tmp_path / "new.db")

    assert path.read_bytes() == damaged
    after = marked_rows(tmp_path / "new.db")
    intact = {mark for mark in before if not places[mark] & pages}
    assert {mark for mark in intact if not before[mark] <= after[mark]} == set()
    if damage is not flips:  # nothing tells that a letter is another one now
        assert after == before or not result.is_complete
        assert {mark for mark in list(after) if not after[mark] <= before[mark]} == set()
    with closing(open_store(tmp_path / "new.db")) as store:
        assert check_store(store, full=True).problems == ()
        assert counts(store) == dict(result.recovered)


def test_the_oracle_can_fail(stores: list[bytes], path: Path) -> None:
    """What SQLite itself reads of such files is less: most of them it refuses, or gives up half-way."""
    readable = 0
    for seed in range(20):
        damaged, _ = DAMAGES[seed % 5](stores[1], random.Random(seed))
        path.write_bytes(damaged)
        script = """
import sqlite3, sys
connection = sqlite3.connect(sys.argv[1])
try:
    for table in ("span_records", "event_records", "log_records", "task_records"):
        connection.execute(f"SELECT * FROM {table}").fetchall()
    print("all")
except sqlite3.DatabaseError:
    print("some")
"""
        readable += run_ok(script, path) == "all\n"
    assert readable < 10


@pytest.mark.parametrize("size", [0, 1])
def test_an_intact_store(size: int, stores: list[bytes], path: Path, tmp_path: Path) -> None:
    """Of a store without damage, everything is in the new one, row by row; nothing is reported."""
    path.write_bytes(stores[size])
    with closing(open_store(path)) as store:
        before = everything(store)
        expected = counts(store)
    result = recover(path, tmp_path / "new.db")
    with closing(open_store(tmp_path / "new.db")) as store:
        assert everything(store) == before
    assert result == RecoverResult(
        source=path,
        target=tmp_path / "new.db",
        recovered=expected,
        rebuilt={},
        lost={},
        damaged_pages={},
        altered={},
        damaged_frames=0,
        foreign_tables=(),
        withheld_jobs=0,
    )
    assert result.is_complete
    assert (tmp_path / "new.db").stat().st_mode & 0o777 == 0o600
    assert sorted(file.name for file in tmp_path.iterdir()) == ["new.db", "new.db.lock", "store.db", "store.db.lock"]


# -- the write-ahead log ----------------------------------------------------------------------------------------

CRASH = """
import os, signal, sys
from tilebox_local.observability.tracing import WorkflowTracer
from tilebox_local.storage import checkpointer
from tilebox_local.storage.store import open_store
checkpointer._BACKGROUND_PAGES = checkpointer._COMMITTER_PAGES = 10**9
store = open_store(sys.argv[1])
tracer = WorkflowTracer(store.writer.queue, store.resource(None))
for number in range(150):
    with tracer.span(f"span {number}") as span:
        span.set_attribute("payload", "x" * 500)
    if number < 100:
        store.flush()
store.flush()
os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.fixture
def crashed(path: Path) -> Path:
    """A store whose last user was killed: its spans are in the write-ahead log only, 100 commits, then 50 at once."""
    if sys.platform == "win32":
        pytest.skip("needs SIGKILL")
    assert run(CRASH, path).returncode == -signal.SIGKILL
    assert path.with_name("store.db-wal").stat().st_size > 100 * PAGE
    return path


def recovered_spans(tmp_path: Path) -> list[int]:
    """Numbers of the spans in the new store."""
    found = outside(tmp_path / "new.db", "SELECT name FROM span_records")
    return sorted(int(name.split()[1]) for (name,) in found)


def files(path: Path) -> dict[str, bytes]:
    """The store and its log."""
    return {suffix: path.with_name(path.name + suffix).read_bytes() for suffix in ("", "-wal")}


def test_the_log_of_a_crash(crashed: Path, tmp_path: Path) -> None:
    """Commits that are in the write-ahead log only are recovered; neither file is touched."""
    before = files(crashed)
    assert recover(crashed, tmp_path / "new.db").is_complete
    assert files(crashed) == before
    assert recovered_spans(tmp_path) == list(range(150))


def test_a_damaged_log(crashed: Path, tmp_path: Path) -> None:
    """A bit that is flipped in the middle of the log costs what is on its page at most; SQLite forgets what follows."""
    log = crashed.with_name("store.db-wal")
    content = bytearray(log.read_bytes())
    content[len(content) // 2] ^= 1
    log.write_bytes(content)
    result = recover(crashed, tmp_path / "new.db")
    assert not result.is_complete
    assert result.damaged_frames <= 1
    assert len(recovered_spans(tmp_path)) >= 145
    assert outside(crashed, "SELECT count(*) < 90 FROM span_records") == [(1,)]  # the control


def test_an_unfinished_transaction_does_not_count(crashed: Path, tmp_path: Path) -> None:
    """Of what the log has after its last commit, nothing is recovered."""
    log = crashed.with_name("store.db-wal")
    log.write_bytes(log.read_bytes()[: -PAGE // 2])  # the frame that is the last commit
    recover(crashed, tmp_path / "new.db")
    assert recovered_spans(tmp_path) == list(range(100))


def test_the_file_is_gone_but_for_the_log(crashed: Path, tmp_path: Path) -> None:
    """A file of noise with an intact log gives what the log has."""
    crashed.write_bytes(random.Random(1).randbytes(crashed.stat().st_size))
    recover(crashed, tmp_path / "new.db")
    assert recovered_spans(tmp_path) == list(range(150))


def test_pages_that_only_the_pointer_map_knows(path: Path, tmp_path: Path) -> None:
    """Rows of a table that looks like others come back when the root of its tree is gone, and the schema with it."""
    with Client(path) as client:
        make_spans(client.tracer, 2000)
    with Client(path, read_only=True) as client:
        before = everything(client._store)
        with client._store.read() as connection:
            root = connection.execute("SELECT rootpage FROM sqlite_schema WHERE name = 'trace_records'").get
    content = bytearray(path.read_bytes())
    for page in (0, root - 1):
        content[page * PAGE : (page + 1) * PAGE] = bytes(PAGE)
    path.write_bytes(content)
    result = recover(path, tmp_path / "new.db")
    with closing(open_store(tmp_path / "new.db")) as store:
        assert everything(store) == before
    assert dict(result.damaged_pages) == {"trace_records": 1}


# -- what is lost -----------------------------------------------------------------------------------------------


@pytest.fixture
def closed(path: Path) -> Path:
    """A closed store with jobs in all states, which a test may break."""
    with Client(path) as client:
        fill(client)
    return path


NAMED = ("runner", "identifier", "group", "job", "trace", "writer", "resource", "scope")
STAND_INS = {
    "runner": (
        "DELETE FROM runner_records",
        {"runner_records": 3, "resource_records": 1, "cluster_records": 1, "writer_records": 1},
    ),
    "resource": ("DELETE FROM resource_records", {"resource_records": 1}),
    "cluster": ("DELETE FROM cluster_records", {}),  # a new store has this one
    "scope": ("DELETE FROM scope_records WHERE scope_no > 1", None),  # as many as there are loggers
    "identifier": ("DELETE FROM identifier_records", {"identifier_records": 3}),
    "job": ("DELETE FROM job_records WHERE job_no = 1", {"job_records": 1}),
    "group": ("DELETE FROM group_records WHERE job_no = 1", {"group_records": 3}),
    "trace": ("DELETE FROM trace_records WHERE job_no <= 2", {"trace_records": 2}),
    "everything that others name": ("; ".join(f"DELETE FROM {name}_records" for name in NAMED), None),
    "tasks": ("DELETE FROM task_records", {}),
    "root tasks": ("DELETE FROM task_records WHERE parent_no IS NULL", {}),
    "children": ("DELETE FROM task_records WHERE parent_no IS NOT NULL", {}),
    "the store's own facts": ("DELETE FROM store_records", {}),
}


@pytest.mark.parametrize("lost", STAND_INS)
def test_rows_that_others_name(closed: Path, tmp_path: Path, lost: str) -> None:
    """Rows that are lost but named get stand-ins, which are counted; the new store is sound, and runs jobs."""
    statement, rebuilt = STAND_INS[lost]
    with closing(open_store(closed)) as store:
        spans = everything(store)["span_records"]
    change_closed_file(closed, *statement.split("; "))
    result = recover(closed, tmp_path / "new.db")
    assert rebuilt is None or dict(result.rebuilt) == rebuilt
    with Client(tmp_path / "new.db") as client:
        assert client.check(full=True).problems == ()
        assert everything(client._store)["span_records"] == spans
        (job,) = run_jobs(client, "new")
        assert client.jobs().find(job).state.name == "COMPLETED"
        assert len(client.jobs().query_spans(job)) > 0


def test_jobs_that_lost_something_are_withheld(closed: Path, tmp_path: Path) -> None:
    """Tasks of an unfinished job that lost a task do not run until the job is retried; whole jobs go on."""
    last = "SELECT max(t.task_no) FROM task_records t JOIN jobs j ON j.job_no = t.job_no WHERE j.name = 'running'"
    change_closed_file(closed, f"DELETE FROM task_records WHERE task_no = ({last})")
    result = recover(closed, tmp_path / "new.db")
    assert result.withheld_jobs == 1
    with Client(tmp_path / "new.db") as client:
        runner = client.runner(tasks=[Root, Leaf, Broken])
        runner.run_all()
        states = {job.name: job.state.name for job in client.jobs().query()}
        assert (states["running"], states["waiting"]) == ("CANCELED", "COMPLETED")
        (withheld,) = [job for job in client.jobs().query() if job.name == "running"]
        client.jobs().retry(withheld)
        runner.run_all()
        assert client.jobs().find(withheld).state.name == "COMPLETED"
        assert client.check(full=True).problems == ()


def test_running_tasks_are_queued_again(closed: Path, tmp_path: Path) -> None:
    """A task that was running is given back by the next runner, as after every crash, and completes."""
    assert recover(closed, tmp_path / "new.db").is_complete
    assert outside(tmp_path / "new.db", "SELECT count(*) FROM tasks WHERE state = 'RUNNING'") == [(1,)]
    with Client(tmp_path / "new.db") as client:
        client.runner(tasks=[Root, Leaf, Broken]).run_all()
    assert outside(tmp_path / "new.db", "SELECT state, crashes FROM tasks WHERE job_name = 'running'") == [
        ("COMPUTED", 1), ("COMPUTED", 0),
    ]  # fmt: skip


def test_damaged_text(closed: Path, tmp_path: Path) -> None:
    """Text that is no UTF-8 any more is kept with U+FFFD, JSON that is none as text, and both are counted."""
    content = closed.read_bytes()
    assert b"leaf 0" in content
    assert b'{"payload":"xxx' in content
    closed.write_bytes(content.replace(b"leaf 0", b"leaf \xff").replace(b'{"payload":"xxx', b'["payload":"xxx'))
    result = recover(closed, tmp_path / "new.db")
    assert result.altered["span_records"] > 2
    found = outside(tmp_path / "new.db", "SELECT name, attributes ->> 'recovered' FROM spans WHERE name LIKE 'leaf %'")
    assert ("leaf \ufffd", '["payload":"' + "x" * 200 + '"}') in found


def test_tables_of_somebody_else(closed: Path, tmp_path: Path) -> None:
    """Tables that are not of our schema are not copied, and named."""
    change_closed_file(closed, "CREATE TABLE notes (text)", "INSERT INTO notes VALUES ('mine')")
    assert recover(closed, tmp_path / "new.db").foreign_tables == ("notes",)


def test_a_half_pruned_job_stays_so(closed: Path, tmp_path: Path) -> None:
    """A job that was being pruned when the store broke is pruned on in the new one."""
    change_closed_file(
        closed,
        "UPDATE job_records SET first_root_no = NULL, last_root_no = NULL WHERE job_no = 1",
        "DELETE FROM span_records WHERE trace_no = 1",
    )
    recover(closed, tmp_path / "new.db")
    with Client(tmp_path / "new.db") as client:
        assert client.check(full=True).ok
        assert "completed" not in [job.name for job in client.jobs().query()]
        assert client.prune(keep_last=100).jobs == 1


# -- what is refused --------------------------------------------------------------------------------------------

HOLD = """
import sys
from tilebox_local.storage.store import open_store
store = open_store(sys.argv[1])
print("ready", flush=True)
sys.stdin.readline()
store.close()
"""


def test_a_live_store_is_refused(closed: Path, tmp_path: Path) -> None:
    """A store that this or another process has open is not touched, by whatever name; nothing is left of the target."""
    link = tmp_path / "link.db"
    link.symlink_to(closed)
    with closing(open_store(closed)), pytest.raises(StoreBusyError, match="is open in this process"):
        recover(link, tmp_path / "new.db")
    with start(HOLD, closed) as holder:
        assert read_line(holder) == "ready"
        with pytest.raises(StoreBusyError, match="is open in another process"):
            recover(closed, tmp_path / "new.db")
        holder.communicate("go\n")
    assert not (tmp_path / "new.db").exists()
    assert recover(closed, tmp_path / "new.db").is_complete


def test_nobody_opens_it_meanwhile(closed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """While a store is read for a recovery, other processes wait that want to open it."""
    ask = """
import sqlite3, sys
connection = sqlite3.connect(sys.argv[1], timeout=0)
try:
    print(connection.execute("SELECT count(*) > 0 FROM job_records").fetchone()[0])
except sqlite3.OperationalError as error:
    print(error)
"""
    answers = []
    module = sys.modules["tilebox_local.upkeep.recover"]
    original = module._check_header
    monkeypatch.setattr(module, "_check_header", lambda *args: (answers.append(run_ok(ask, closed)), original(*args)))
    recover(closed, tmp_path / "new.db")
    answers.append(run_ok(ask, closed))
    assert answers == ["database is locked\n", "1\n"]


def test_what_is_no_store(tmp_path: Path) -> None:
    """Nothing, a folder, noise and somebody else's database are refused; nothing is left behind."""
    (tmp_path / "noise").write_bytes(random.Random(2).randbytes(20 * PAGE))
    change_closed_file(tmp_path / "foreign", "CREATE TABLE notes (text)", "INSERT INTO notes VALUES ('mine')")
    (tmp_path / "empty").touch()
    before = sorted(file.name for file in tmp_path.iterdir())
    for name in ("noise", "foreign", "empty"):
        with pytest.raises(NotATileboxStoreError, match="Nothing of a tilebox-local store was found"):
            recover(tmp_path / name, tmp_path / "new.db")
    for name in ("missing", "."):
        with pytest.raises(ArgumentError, match="is not a file"):
            recover(tmp_path / name, tmp_path / "new.db")
    assert sorted(file.name for file in tmp_path.iterdir()) == before


def test_the_target_is_a_new_file(closed: Path, tmp_path: Path) -> None:
    """A file that exists is not overwritten, the damaged one least of all."""
    content = closed.read_bytes()
    (tmp_path / "mine").write_text("mine")
    for target in (closed, tmp_path / "mine"):
        with pytest.raises(ArgumentError, match="exists"):
            recover(closed, target)
    assert (closed.read_bytes(), (tmp_path / "mine").read_text()) == (content, "mine")


def test_a_newer_store(closed: Path, tmp_path: Path) -> None:
    """A store of a newer version is refused: it has what this version does not know."""
    change_closed_file(closed, "PRAGMA user_version = 99000")
    with pytest.raises(SchemaVersionError, match="Upgrade the package"):
        recover(closed, tmp_path / "new.db")


def test_the_hint_names_recover(closed: Path) -> None:
    """Whoever meets a damaged store is told of it, and finds it in the package."""
    content = closed.read_bytes()
    closed.write_bytes(content[:100] + b"\xaa" * 4000 + content[4100:])
    with pytest.raises(StoreCorruptError, match="tilebox-local recover FILE NEW_FILE"):
        open_store(closed)
    assert tilebox_local.recover is recover
