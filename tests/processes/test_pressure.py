"""Many processes at once: the first open, fair turns, a reader that is stuck, news of other processes' commits."""

from __future__ import annotations

from contextlib import contextmanager
from queue import Empty
from typing import TYPE_CHECKING

import pytest
from store_support import (
    IS_NIGHTLY,
    PATIENCE_S,
    make_spans,
    outside,
    read_line,
    rows,
    run_together,
    start,
    until,
)

from tilebox_local.storage import watch
from tilebox_local.storage.watch import ChangeWatch

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from tilebox_local.observability.tracing import WorkflowTracer
    from tilebox_local.storage.store import Store


FIRST_OPEN = """
import sys, threading
from tilebox_local.observability.tracing import WorkflowTracer
from tilebox_local.storage import lockfile, schema, store
if sys.argv[2] == "newer":  # as a version would do that adds a table
    schema.SCHEMA_VERSION = 1001
    added, before = "CREATE TABLE added_records (a INTEGER PRIMARY KEY) STRICT;\\n", schema.read_schema_sql()
    schema.migration_files = lambda: {1001: added}
    schema.read_schema_sql = lambda: before + added
if sys.argv[2] == "unlocked":
    from contextlib import contextmanager
    @contextmanager
    def held(self, **options):
        yield
    lockfile.LockFile.held = held
print("ready", flush=True)
for number in range(int(sys.argv[3])):
    sys.stdin.readline()
    try:
        found = store.open_store(f"{sys.argv[1]}/{number}.db")
        with WorkflowTracer(found.writer.queue, found.resource(None)).span("span"):
            pass
        found.close()
    except Exception as error:
        print(f"{type(error).__name__}: {error}", flush=True)
    print("opened", flush=True)
"""


def open_at_once(folder: Path, modes: list[str], rounds: int) -> list[str]:
    """Let a process per mode open the same new store in the same moment, round after round; their errors."""
    errors = []
    processes = [start(FIRST_OPEN, folder, mode, rounds) for mode in modes]
    for process in processes:
        assert read_line(process) == "ready"
    for _ in range(rounds):
        for process in processes:
            assert process.stdin is not None
            process.stdin.write("go\n")
            process.stdin.flush()
        for process in processes:
            while (line := read_line(process)) != "opened":
                errors.append(line)
    for process in processes:
        assert process.communicate(timeout=60) == ("", "")
    return errors


ROUNDS = 1000 if IS_NIGHTLY else 10
SCHEMA = (
    "SELECT group_concat(sql, ';') FROM (SELECT sql FROM sqlite_schema WHERE name <> 'added_records' ORDER BY name)"
)


def test_sixteen_processes_open_a_new_store(tmp_path: Path) -> None:
    """Processes that are the first to open a store, all at once, see no error, and create one schema."""
    assert open_at_once(tmp_path, ["same"] * 16, ROUNDS) == []
    found = {outside(tmp_path / f"{number}.db", SCHEMA)[0] for number in range(10)}
    assert len(found) == 1
    for number in range(10):
        path = tmp_path / f"{number}.db"
        assert outside(path, "SELECT count(*) FROM span_records") == [(16,)]
        assert outside(path, "SELECT count(*) FROM pragma_integrity_check WHERE integrity_check = 'ok'") == [(1,)]


def test_two_versions_open_a_new_store(tmp_path: Path) -> None:
    """This version and one that adds a table open, create and migrate a store at once: no error, the newer schema."""
    assert open_at_once(tmp_path, ["same", "newer"] * 4, 5) == []
    for number in range(5):
        path = tmp_path / f"{number}.db"
        assert outside(path, "SELECT user_version FROM pragma_user_version") == [(1001,)]
        assert outside(path, "SELECT count(*) FROM sqlite_schema WHERE name = 'added_records'") == [(1,)]
        assert outside(path, "SELECT count(*) FROM span_records") == [(8,)]


def test_without_the_lock_first_opens_collide(tmp_path: Path) -> None:
    """Without the lock file, two processes create the schema at once, and one of them fails."""
    assert open_at_once(tmp_path, ["unlocked"] * 8, 10) != []


SATURATE = """
import sys, time
from tilebox_local.observability.tracing import WorkflowTracer
from tilebox_local.storage import lockfile
from tilebox_local.storage.store import open_store
store = open_store(sys.argv[1])
if sys.argv[3] == "unfair":
    from contextlib import contextmanager
    @contextmanager
    def held(self, **options):
        yield
    lockfile.LockFile.held = held
    store.transact(lambda connection: connection.set_busy_timeout(60_000))  # SQLite's own way to wait
tracer = WorkflowTracer(store.writer.queue, store.resource(None))
row = "INSERT INTO scope_records (name) VALUES (?)"
def write(connection):
    connection.executemany(row, [(f"{sys.argv[2]} {batches} {number}",) for number in range(200)]).fetchall()
batches = 0
print("ready", flush=True)
sys.stdin.readline()
end = time.monotonic() + float(sys.argv[4])
while time.monotonic() < end:
    store.transact(write)
    batches += 1
print(batches, store.stats().dropped_count)
store.close()
"""


def saturate(path: Path, mode: str, seconds: float) -> list[int]:
    """Batches that each of four processes has committed, that did nothing else for some time."""
    done = run_together(SATURATE, [(path, number, mode, seconds) for number in range(4)])
    if mode == "fair":  # else who starves may say so
        assert [(errors, code) for _, errors, code in done] == [("", 0)] * 4
    batches = [int(output.split()[0]) for output, *_ in done]
    assert outside(path, "SELECT count(*) FROM scope_records WHERE scope_no > 1") == [(200 * sum(batches),)]
    return batches


@pytest.mark.soak
def test_writers_take_turns(path: Path) -> None:
    """Of four processes that write all the time, each commits about as often as the others."""
    batches = saturate(path, "fair", 60 if IS_NIGHTLY else 10)
    assert min(batches) / max(batches) >= 0.8, batches


@pytest.mark.soak
def test_without_the_turnstile_writers_starve(path: Path) -> None:
    """With SQLite's own lock alone, some of four such processes commit much less often than others: luck decides."""
    tries = []
    while not tries or (min(tries[-1]) / max(tries[-1]) >= 0.8 and len(tries) < 5):
        tries.append(saturate(path.with_name(f"{len(tries)}.db"), "unfair", 4))
    assert min(tries[-1]) / max(tries[-1]) < 0.8, tries


READER = """
import pathlib, sqlite3, sys
connection = sqlite3.connect(f"{pathlib.Path(sys.argv[1]).as_uri()}?mode=ro", uri=True, isolation_level=None)
connection.execute("BEGIN")
print(connection.execute("SELECT count(*) FROM span_records").fetchone()[0], flush=True)
sys.stdin.readline()
print(connection.execute("SELECT count(*) FROM span_records").fetchone()[0], flush=True)
connection.execute("COMMIT")
sys.stdin.read()
"""
_KEPT_BYTES = 64 * 1024 * 1024


@pytest.mark.soak
def test_a_stuck_reader(store: Store, tracer: WorkflowTracer, path: Path) -> None:
    """Beside a reader that is stuck, all is written; the log grows with it, and is below 64 MiB again afterwards."""
    log = path.with_name("store.db-wal")
    count = 2_000_000 if IS_NIGHTLY else 400_000
    with start(READER, path) as reader:
        assert read_line(reader) == "0"
        with tracer.span("parent"):
            make_spans(tracer, count, name=200 * "x")
        store.flush()
        stats = store.stats()
        assert (stats.dropped_count, stats.failed_transaction_count) == (0, 0)
        assert _KEPT_BYTES < log.stat().st_size < 700 * count
        assert outside(path, "SELECT count(*) FROM span_records") == [(count + 1,)]
        assert reader.stdin is not None
        reader.stdin.write("go\n")
        reader.stdin.flush()
        assert read_line(reader) == "0"

        def is_small() -> bool:
            make_spans(tracer, 1)
            store.flush()
            return log.stat().st_size <= _KEPT_BYTES

        until(is_small)
        reader.communicate("")


COMMITS = """
import sys
from tilebox_local.storage.store import open_store
store = open_store(sys.argv[1])
print("ready", flush=True)
update = "UPDATE store_records SET value = ? WHERE key = 'seen'"
for number, _ in enumerate(sys.stdin):
    store.transact(lambda connection: connection.execute(update, (number,)).fetchall())
    print("committed", flush=True)
store.close()
"""


NO_WATCHES = ["watchdog.observers.Observer", "watchdog.observers.Observer.schedule"]


@contextmanager
def commits_of_another_process(store: Store, path: Path) -> Iterator[Callable[[], None]]:
    """A function that lets another process commit, and returns after the commit."""
    store.transact(lambda connection: connection.execute("INSERT INTO store_records VALUES ('seen', -1)").fetchall())
    with start(COMMITS, path) as other:
        assert read_line(other) == "ready"

        def commit() -> None:
            assert other.stdin is not None
            other.stdin.write("go\n")
            other.stdin.flush()
            assert read_line(other) == "committed"

        yield commit
        assert other.communicate(timeout=60) == ("", "")


def seen(store: Store) -> object:
    """The number of the last commit of the other process."""
    return rows(store, "SELECT value FROM store_records WHERE key = 'seen'")[0][0]


def no_more_watches(*_: object, **__: object) -> None:
    """What watchdog does when the kernel has no watch to give."""
    raise OSError("inotify watch limit reached")


def test_a_watch_hears_of_each_commit(store: Store, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A wait ends after each of sixty commits of another process, without the backstop."""
    monkeypatch.setattr(watch, "_BACKSTOP_S", PATIENCE_S)
    changes = ChangeWatch(store)
    with commits_of_another_process(store, path) as commit:
        for number in range(60):
            changes.wait(0)  # what was before
            commit()
            changes._changes.get(timeout=PATIENCE_S)
            assert seen(store) == number
    changes.close()


@pytest.mark.parametrize("what", NO_WATCHES)
def test_the_backstop_alone_misses_nothing(
    what: str, store: Store, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where there is nobody to tell of changes, a wait ends nevertheless, after the backstop's time, each time."""
    monkeypatch.setattr(watch, "_BACKSTOP_S", 0.01)
    monkeypatch.setattr(what, no_more_watches)
    changes = ChangeWatch(store)
    with commits_of_another_process(store, path) as commit:
        for number in range(60):
            commit()
            changes.wait()
            assert seen(store) == number
    changes.close()


def test_without_watchdog_nobody_hears_of_commits(store: Store, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Were it not for watchdog, commits of another process would end no wait before the backstop does."""
    monkeypatch.setattr(NO_WATCHES[1], no_more_watches)
    changes = ChangeWatch(store)
    with commits_of_another_process(store, path) as commit:
        changes.wait(0)
        commit()
        with pytest.raises(Empty):
            changes._changes.get(timeout=0.1)
    changes.close()


def test_a_wait_ends_again_after_a_change(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """A change is told before it can be seen: the waits that follow it end soon, too, at growing distances."""
    monkeypatch.setattr(watch, "_BACKSTOP_S", PATIENCE_S)
    changes = ChangeWatch(store)
    asked: list[float] = []

    class Changes:
        told = iter([None])

        def get(self, timeout: float) -> None:
            asked.append(timeout)
            for _ in self.told:
                return
            raise Empty

        def get_nowait(self) -> None:
            raise Empty

    monkeypatch.setattr(changes, "_changes", Changes())
    for _ in range(6):
        changes.wait()
    assert asked == [PATIENCE_S, 0.001, 0.005, 0.02, 0.1, PATIENCE_S]
    changes.close()
