"""The end of a store, a thread or a process: nothing that was appended is lost without a word."""

from __future__ import annotations

import logging
import os
import platform
import threading
from collections import Counter
from contextlib import closing, suppress
from typing import TYPE_CHECKING, Any

import pytest
from store_support import (
    PATIENCE_S,
    Disk,
    add_scope,
    locked_elsewhere,
    log_item,
    make_spans,
    names,
    outside,
    read_line,
    rows,
    run,
    run_ok,
    standing_still,
    start,
    transact_within,
    until,
)

from tilebox_local import Client
from tilebox_local.errors import FlushTimeoutError, ForeignOpenError, StoreClosedError, StoreError
from tilebox_local.observability.tracing import WorkflowTracer
from tilebox_local.storage import store as store_module
from tilebox_local.storage import writer as writer_module
from tilebox_local.storage.lockfile import LockFile
from tilebox_local.storage.store import open_store
from tilebox_local.storage.threads import BackgroundThread

if TYPE_CHECKING:
    from pathlib import Path

# -- closing ----------------------------------------------------------------------------------------------------


def test_close_writes_what_is_queued(path: Path) -> None:
    """Closing stores everything, leaves one file (and the lock) behind, and may be repeated."""
    client = Client(path)
    make_spans(client.tracer, 100)
    client.close()
    client.close()
    assert sorted(file.name for file in path.parent.iterdir()) == ["store.db", "store.db.lock"]
    assert outside(path, "SELECT count(*) FROM span_records") == [(100,)]


def test_use_after_close(path: Path) -> None:
    """A closed store refuses reads and transactions with a hint; late telemetry does no harm."""
    store = open_store(path)
    tracer = WorkflowTracer(store.writer.queue, store.resource(None))
    store.close()
    store.close()
    assert store.is_closed
    for use in (lambda: store.transact(add_scope("late")), lambda: store.read().__enter__()):
        with pytest.raises(StoreClosedError) as caught:
            use()
        assert str(caught.value) == f"{path} is closed. Open a new Client."
    make_spans(tracer, 3)
    store.writer.queue.append_log(log_item(store, "late"))


def test_use_after_close_of_the_client(path: Path) -> None:
    """The methods of a closed client say that it is closed."""
    with Client(path) as client:
        client.clusters().all()
    for use in (
        client.clusters().all,
        lambda: client.clusters().create("late"),
        lambda: client.jobs().query(),
        client.runner,
    ):
        with pytest.raises(StoreClosedError, match="is closed"):
            use()


def test_a_store_is_open_until_its_last_user_closes_it(path: Path) -> None:
    """Clients of one path share a store; each writes what is queued, the last one that closes it closes the file."""
    first, second = Client(path), Client(path.parent / "." / path.name)
    assert first._store is second._store
    make_spans(first.tracer, 1)
    first.close()
    assert outside(path, "SELECT count(*) FROM span_records") == [(1,)]
    first.close()
    make_spans(second.tracer, 1)
    second.close()
    assert second._store.is_closed
    assert outside(path, "SELECT count(*) FROM span_records") == [(2,)]


def test_a_store_can_be_opened_again(path: Path) -> None:
    """After closing, the same path can be opened in the same process; each time counts as a new writer."""
    for number in range(3):
        with Client(path) as client:
            make_spans(client.tracer, 1, f"time {number}")
    assert outside(path, "SELECT name FROM span_records ORDER BY name") == [(f"time {n} 0",) for n in range(3)]
    assert outside(path, "SELECT pid, host FROM writer_records") == [(os.getpid(), platform.node())] * 3


def test_close_while_the_file_is_locked(path: Path) -> None:
    """Closing gives up after its timeout while another process holds the lock; closing again, once it is free, ends it.

    Until then the file is still guarded, and taken into account by forks and by the exit.
    """
    store = open_store(path)
    make_spans(WorkflowTracer(store.writer.queue, store.resource(None)), 3)
    store.flush()
    with locked_elsewhere(path):
        make_spans(WorkflowTracer(store.writer.queue, store.resource(None)), 4, "late")
        with pytest.raises(FlushTimeoutError) as caught:
            store.shut_down(0.05)
        assert caught.value.pending == 4
        assert str(caught.value) == f"{path}: 4 records are not written yet; the writer goes on trying."
        assert (store.is_closed, store.holds_file) == (True, True)
        with pytest.raises(ForeignOpenError):
            path.open()
    store.close()
    assert not store.holds_file
    path.open().close()
    assert outside(path, "SELECT count(*) FROM span_records") == [(7,)]


def test_close_does_not_wait_for_another_store(path: Path) -> None:
    """A store is closed while another thread waits for the end of a locked one."""
    locked, free = open_store(path), open_store(path.with_name("free.db"))
    make_spans(WorkflowTracer(locked.writer.queue, locked.resource(None)), 3)
    locked.flush()
    with locked_elsewhere(path):
        make_spans(WorkflowTracer(locked.writer.queue, locked.resource(None)), 3)
        thread = threading.Thread(target=locked.close)
        thread.start()
        until(lambda: locked.is_closed)
        free.close()
        assert (free.holds_file, thread.is_alive()) == (False, True)
    thread.join()
    assert not locked.holds_file
    assert outside(path, "SELECT count(*) FROM spans") == [(6,)]


def test_a_close_that_meets_the_last_one_waits_for_it(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """close() of one of two users does not return before what is queued is written, also if the other closes."""
    first, second = Client(path), Client(path)
    store = first._store
    flush = store.flush

    def flush_late(timeout_s: float | None = None) -> None:
        until(lambda: store.is_closed)
        flush(timeout_s)

    monkeypatch.setattr(store, "flush", flush_late)
    with standing_still(store):
        make_spans(second.tracer, 3)
        threads = [threading.Thread(target=client.close) for client in (first, second)]
        for thread in threads:
            thread.start()
            until(lambda: len(store._users) < 2)
        until(lambda: store.writer._stopping)
        threads[0].join(0.2)
        assert [thread.is_alive() for thread in threads] == [True, True]
    for thread in threads:
        thread.join()
    assert outside(path, "SELECT count(*) FROM spans") == [(3,)]


def test_a_lock_file_that_is_closed_while_it_is_held(tmp_path: Path) -> None:
    """Whoever is inside closes it when it is done; whoever comes later leaves no descriptor behind either."""
    lock = LockFile(str(tmp_path / "lock"))
    with lock.held():
        lock.close()
        assert lock._fd is not None
    assert lock._fd is None
    with lock.held_if_free() as is_free:
        assert is_free
    assert lock._fd is None


def test_close_does_not_wait_for_other_threads_to_stop(path: Path) -> None:
    """close() writes what was appended before it, and returns although other threads go on making spans."""
    store = open_store(path)
    tracer = WorkflowTracer(store.writer.queue, store.resource(None))
    make_spans(tracer, 10, "before")
    stop = threading.Event()

    def go_on() -> None:
        while not stop.is_set():
            make_spans(tracer, 1, "more")

    producer = threading.Thread(target=go_on)
    producer.start()
    until(lambda: store.stats().written_count > 10)
    try:
        store.writer.close(10)
    finally:
        stop.set()
        producer.join()
        store.writer._thread.join()
        store.close()
    assert outside(path, "SELECT count(*) FROM span_records WHERE name LIKE 'before%'") == [(10,)]


@pytest.mark.usefixtures("eager")
def test_close_says_that_records_were_lost(path: Path) -> None:
    """If the last records cannot be written, close() raises an error that says how many."""
    store = open_store(path)
    disk = Disk(store)
    disk.failures = 1000
    make_spans(WorkflowTracer(store.writer.queue, store.resource(None)), 3)
    with pytest.raises((StoreError, FlushTimeoutError), match="3"):
        store.close()


def test_transact_that_races_with_close_ends(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A transaction that comes while another thread closes the store raises StoreClosedError; it does not hang."""
    store = open_store(path)
    store.transact(add_scope("before"))
    ready, closed = threading.Event(), threading.Event()

    class SlowCommand(writer_module._Command):
        __slots__ = ()

        def __init__(self, function: Any) -> None:
            super().__init__(function)
            ready.set()
            closed.wait(PATIENCE_S)

    monkeypatch.setattr(writer_module, "_Command", SlowCommand)
    errors: list[BaseException] = []

    def transact() -> None:
        try:
            store.transact(add_scope("late"))
        except StoreClosedError as error:
            errors.append(error)

    thread = threading.Thread(target=transact, daemon=True)
    thread.start()
    assert ready.wait(PATIENCE_S)
    store.close()
    closed.set()
    thread.join(0.5)
    hangs = thread.is_alive()
    if hangs:
        store.writer._commands[0].done.release()
        thread.join()
    assert not hangs
    assert len(errors) == 1


# -- the writer thread lives ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError("no luck"),
        MemoryError(),
        SystemExit(1),
    ],
)
@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_the_writer_survives_errors_in_callbacks(error: BaseException, path: Path) -> None:
    """An exception in a callback after the commit, of whatever kind, does not stop the writer."""
    store = open_store(path)

    def fail() -> None:
        store.writer.on_commit.clear()
        raise error

    store.writer.on_commit.append(fail)
    store.transact(add_scope("first"))
    assert transact_within(store, 2, add_scope("second")) == "second"
    store.close()


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_the_writer_survives_a_broken_log_handler(path: Path) -> None:
    """If the user's log handler raises when the writer reports a failure, the writer still goes on."""

    class Broken(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            raise RuntimeError("broken handler")

    store = open_store(path)
    disk = Disk(store)
    logger, handler = logging.getLogger("tilebox.workflows.internal"), Broken()
    logger.addHandler(handler)
    try:
        disk.failures = 1
        with pytest.raises(StoreError):
            store.transact(add_scope("doomed"))
        assert transact_within(store, 2, add_scope("second")) == "second"
    finally:
        logger.removeHandler(handler)
        store.close()


# -- leaving without a word -------------------------------------------------------------------------------------

DAEMON_THREAD = """
import threading
started = threading.Event()
def go_on():
    while True:
        with client.tracer.span("daemon"):
            started.set()
        threading.Event().wait(0.01)
threading.Thread(target=go_on, daemon=True).start()
started.wait()
"""
LATE_THREAD = """
import threading
main = threading.main_thread()
def late():
    main.join()
    with client.tracer.span("late"):
        pass
threading.Thread(target=late).start()
"""
THREAD_POOL = """
from concurrent.futures import ThreadPoolExecutor
pool = ThreadPoolExecutor(2)
def late():
    with client.tracer.span("late"):
        pass
pool.submit(late)
"""
ENDINGS = {
    "end of the script": ("", 0, ""),
    "sys.exit": ("sys.exit(3)", 3, ""),
    "exception": ("raise RuntimeError('unhandled')", 1, "RuntimeError: unhandled"),
    "interrupt": ("raise KeyboardInterrupt", -2, "KeyboardInterrupt"),
    "daemon thread": (DAEMON_THREAD, 0, ""),
    "thread that outlives main": (LATE_THREAD, 0, ""),
    "thread pool": (THREAD_POOL, 0, ""),
}


IMPATIENT = """
import signal, sys, threading, time
from tilebox_local import Client
from tilebox_local.storage.writer import Writer

def is_closing():
    frame = sys._current_frames().get(main)  # None between the end of the script and that of the interpreter
    while frame is not None and frame.f_code is not Writer.close.__code__:
        frame = frame.f_back
    return frame is not None

def wait_for_close():
    while not is_closing():
        time.sleep(0.001)

def interrupt():
    wait_for_close()
    signal.pthread_kill(main, signal.SIGINT)

def tell():
    wait_for_close()
    print("closing again", flush=True)

main = threading.get_ident()
client = Client(sys.argv[1])
with client.tracer.span("early"):
    pass
client.flush()
print("open", flush=True)
sys.stdin.readline()
for number in range(500):
    with client.tracer.span(f"late {number}"):
        pass
threading.Thread(target=interrupt, daemon=True).start()
try:
    client.close()
except KeyboardInterrupt:
    threading.Thread(target=tell, daemon=True).start()
    raise
"""


def test_interrupting_close_loses_nothing(path: Path) -> None:
    """Ctrl-C while close() waits for somebody's lock: what is queued is written before the interpreter exits."""
    with start(IMPATIENT, path) as process:
        assert read_line(process) == "open"
        with locked_elsewhere(path, "SQLite's lock"):
            assert process.stdin is not None
            process.stdin.write("\n")
            process.stdin.flush()
            assert read_line(process) == "closing again"
        stdout, stderr = process.communicate(timeout=PATIENCE_S)
    assert (process.returncode, stdout, stderr.strip().rpartition("\n")[2]) == (-2, "", "KeyboardInterrupt")
    assert sorted(file.name for file in path.parent.iterdir()) == ["store.db", "store.db.lock"]
    assert outside(path, "SELECT count(*) FROM spans") == [(501,)]


TERMINATED = """
import signal, sys
from tilebox_local import Client
from tilebox_local.storage.writer import Writer

close = Writer.close

def terminated(writer, *arguments):
    Writer.close = close
    signal.raise_signal(signal.SIGTERM)
    return close(writer, *arguments)

signal.signal(signal.SIGTERM, lambda *_: sys.exit(3))
Writer.close = terminated
clients = [Client(path) for path in sys.argv[1:]]
for client in clients:
    for number in range(3000):
        with client.tracer.span("late"):
            pass
"""


def test_a_handler_that_exits_at_the_exit(tmp_path: Path) -> None:
    """SIGTERM, with a handler that exits, while the exit closes the first of two stores: both have all spans."""
    paths = [tmp_path / "first.db", tmp_path / "second.db"]
    run(TERMINATED, *paths)
    assert [outside(path, "SELECT count(*) FROM span_records") for path in paths] == [[(3000,)]] * 2


def test_a_signal_flushes_every_store_that_can_be(tmp_path: Path) -> None:
    """What commits the last spans at SIGTERM is not stopped by a store that cannot be used."""
    with closing(open_store(tmp_path / "refused.db")) as refused, closing(open_store(tmp_path / "usable.db")) as usable:
        make_spans(WorkflowTracer(usable.writer.queue, usable.resource(None)), 3)
        refused.writer.refuse(StoreError("it cannot be used here"))
        store_module._flush_all()
        assert len(names(usable)) == 3


NESTED = """
import signal, sys, threading, time
from tilebox_local.storage.threads import Completion

completion, begun, main = Completion(), threading.Event(), threading.get_ident()

def wait_again(number, frame):
    begun.set()
    print(completion.wait())

def work():
    while sys._current_frames()[main].f_code is not Completion.wait.__code__:
        time.sleep(0.001)
    while not begun.wait(0.05):
        signal.pthread_kill(main, signal.SIGALRM)
    completion.finish()

signal.signal(signal.SIGALRM, wait_again)
threading.Thread(target=work).start()
print(completion.wait())
"""


def test_a_wait_inside_of_a_wait() -> None:
    """A handler that waits for what the interrupted code waits for, as both close a store, lets both go on."""
    assert run_ok(NESTED) == "True\nTrue\n"


@pytest.mark.parametrize("ending", ENDINGS)
def test_forgetting_to_close_loses_nothing(ending: str, path: Path) -> None:
    """However the interpreter ends by itself, without close() or flush(), all finished spans are stored."""
    code, returncode, last_line = ENDINGS[ending]
    script = f"""
import sys
from tilebox_local import Client
client = Client(sys.argv[1])
for number in range(500):
    with client.tracer.span(f"main {{number}}"):
        pass
{code}
"""
    done = run(script, path)
    assert (done.returncode, done.stdout, done.stderr.strip().rpartition("\n")[2]) == (returncode, "", last_line)
    counts = Counter(name.split()[0] for (name,) in outside(path, "SELECT name FROM span_records"))
    assert counts["main"] == 500
    assert (counts["late"] == 1) == (code in (LATE_THREAD, THREAD_POOL))
    assert (counts["daemon"] > 0) == (code == DAEMON_THREAD)


KILLED = """
import sys
from tilebox_local.observability.tracing import WorkflowTracer
from tilebox_local.storage.store import open_store
from tilebox_local.storage.threads import BackgroundThread
store = open_store(sys.argv[1])
tracer = WorkflowTracer(store.writer.queue, store.resource(None))
number = int(sys.argv[2])
while True:
    for _ in range(10):
        with tracer.span(str(number)):
            pass
    if number % 2:
        store.flush()
    else:
        store.transact(
            lambda connection: connection.execute(
                "INSERT INTO scope_records (name) VALUES (?)", (str(number),)
            ).fetchall()
        )
    print(number, flush=True)
    number += 1
"""


def test_kill_minus_9_loses_nothing_that_was_acknowledged(path: Path) -> None:
    """Ten processes are killed in the middle of their work; everything that flush or transact confirmed stays."""
    acknowledged: list[int] = []
    for kill in range(10):
        with start(KILLED, path, kill * 1_000_000) as process:
            acknowledged += [int(read_line(process)) for _ in range(5 + 7 * kill)]
            process.kill()
            rest, errors = process.communicate()
        assert errors == ""
        # Unbuffered, Python writes the end of a line by itself: what came before it may have been read already.
        acknowledged += [int(line) for line in rest.splitlines(keepends=True) if line.endswith("\n") and line.strip()]
    spans = {int(name): n for name, n in outside(path, "SELECT name, count(*) FROM span_records GROUP BY name")}
    scopes = {int(name) for (name,) in outside(path, "SELECT name FROM scope_records WHERE scope_no > 1")}
    assert {number: spans.get(number) for number in acknowledged} == dict.fromkeys(acknowledged, 10)
    assert {number for number in acknowledged if number % 2 == 0} <= scopes
    assert {number: spans.get(number) for number in scopes} == dict.fromkeys(scopes, 10)
    assert outside(path, "SELECT integrity_check FROM pragma_integrity_check") == [("ok",)]
    with closing(open_store(path)) as store:
        assert len(rows(store, "SELECT 1 FROM span_records")) >= 10 * len(acknowledged)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_no_thread_to_be_had(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where no thread can be started, spans do not raise, transactions say so, and close() writes what waits."""

    def refuse(_thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    store = open_store(path)
    tracer = WorkflowTracer(store.writer.queue, store.resource(None))
    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", refuse)
        make_spans(tracer, 4_500)  # more than a batch, where they would give way to the writer
        with pytest.raises(StoreError, match="can't start new thread"):
            store.transact(add_scope("refused"))
        store.close()
    assert outside(path, "SELECT count(*) FROM span_records") == [(4_500,)]
    assert outside(path, "SELECT count(*) FROM scope_records WHERE name = 'refused'") == [(0,)]


@pytest.mark.parametrize(
    ("error", "stored"),
    [
        (RuntimeError("can't start new thread"), ["first 0", "second 0"]),
        (KeyboardInterrupt(), ["second 0"]),  # the block of the first one was not entered
    ],
)
def test_no_thread_to_be_had_for_a_moment(
    error: BaseException, stored: list[str], path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """If the writer could not be started once, the next span starts it; then spans are stored by themselves."""

    def refuse(_thread: threading.Thread) -> None:
        raise error

    with closing(open_store(path)) as store:
        tracer = WorkflowTracer(store.writer.queue, store.resource(None))
        with monkeypatch.context() as patch, suppress(KeyboardInterrupt):
            patch.setattr(threading.Thread, "start", refuse)
            make_spans(tracer, 1, "first")
        make_spans(tracer, 1, "second")
        until(lambda: names(store) == stored)


def test_an_object_that_is_collected_as_the_writer_starts(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Python may collect garbage at any allocation; if that makes a span while the writer is started, nobody hangs."""
    store = open_store(path)
    tracer = WorkflowTracer(store.writer.queue, store.resource(None))
    garbage = ["collected"]

    class Collecting(BackgroundThread):
        def __init__(self, *arguments: Any) -> None:
            if garbage:
                make_spans(tracer, 1, garbage.pop())
            super().__init__(*arguments)

    monkeypatch.setattr(writer_module, "BackgroundThread", Collecting)
    thread = threading.Thread(target=make_spans, args=(tracer, 1, "first"), daemon=True)
    thread.start()
    thread.join(PATIENCE_S)
    assert not thread.is_alive()
    store.flush()
    assert names(store) == ["collected 0", "first 0"]
    store.close()
