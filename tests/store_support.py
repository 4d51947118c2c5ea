"""What the tests of the store share: a look from outside, scripts in processes of their own, hand-made records.

A store that this process has open is never opened by another SQLite in this process: that would drop its locks.
Whoever wants to see it from outside asks another process.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from contextlib import ExitStack, contextmanager, suppress
from typing import TYPE_CHECKING, Any

import pytest

from tilebox_local.errors import StoreError
from tilebox_local.storage.rows import LogItem

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator
    from pathlib import Path
    from types import FrameType

    import apsw

    from tilebox_local.observability.tracing import WorkflowTracer
    from tilebox_local.storage.queue import TelemetryQueue
    from tilebox_local.storage.store import Store

_ASK = """
import json, pathlib, sqlite3, sys
connection = sqlite3.connect(f"{pathlib.Path(sys.argv[1]).as_uri()}?mode=ro", uri=True)
rows = connection.execute(sys.argv[2]).fetchall()
show = lambda value: {"blob": value.hex()} if isinstance(value, bytes) else value
print(json.dumps([[show(value) for value in row] for row in rows]))
"""
_CHANGE = """
import sqlite3, sys
connection = sqlite3.connect(sys.argv[1], isolation_level=None)
for statement in sys.argv[2:]:
    connection.execute(statement).fetchall()
connection.close()
"""
_LOCK = """
import fcntl, sqlite3, sys
connection = sqlite3.connect(sys.argv[1], isolation_level=None)
file = open(sys.argv[1] + ".lock", "r+")
if sys.argv[2] == "our lock":
    fcntl.flock(file, fcntl.LOCK_EX)
else:
    connection.execute("BEGIN IMMEDIATE")
print("locked", flush=True)
sys.stdin.read()
"""
_TIMEOUT_S = 60
IS_NIGHTLY = os.environ.get("TILEBOX_LOCAL_SOAK") == "nightly"
PATIENCE_S = 30


def sizes(quick: int, soak: int, nightly: int) -> list[object]:
    """A test's parameter: a few rounds in each run of the tests; more with -m soak, and far more every night."""
    return [
        pytest.param(quick, id="quick"),
        pytest.param(nightly if IS_NIGHTLY else soak, id="soak", marks=pytest.mark.soak),
    ]


def outside(path: Path, query: str) -> list[tuple[Any, ...]]:
    """Rows of a query as another process sees them, through the older SQLite of the standard library, read-only."""
    done = subprocess.run(
        [sys.executable, "-I", "-S", "-c", _ASK, str(path), query],
        capture_output=True,
        text=True,
        timeout=_TIMEOUT_S,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    unpack = lambda value: bytes.fromhex(value["blob"]) if isinstance(value, dict) else value  # noqa: E731
    return [tuple(unpack(value) for value in row) for row in json.loads(done.stdout)]


def change_closed_file(path: Path, *statements: str) -> None:
    """Run statements on a file that nobody has open, in another process."""
    command = [sys.executable, "-I", "-S", "-c", _CHANGE, str(path), *statements]
    done = subprocess.run(command, capture_output=True, text=True, timeout=_TIMEOUT_S, check=False)
    assert done.returncode == 0, done.stderr


def start(script: str, *arguments: object, warnings: str = "error") -> subprocess.Popen[str]:
    """Start a script in a process of its own, with pipes to talk to it."""
    command = [sys.executable, "-W", warnings, "-c", script, *map(str, arguments)]
    return subprocess.Popen(
        command,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        bufsize=1,
        process_group=0,
    )


def _kill(process: subprocess.Popen[str]) -> None:
    """End a script, and what it has forked: that holds its pipes, too."""
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)


def read_line(process: subprocess.Popen[str]) -> str:
    """The next line that a script prints; if there is none, what it complains about."""
    assert process.stdout is not None
    timer = threading.Timer(_TIMEOUT_S, _kill, (process,))
    timer.start()
    line = process.stdout.readline()
    timer.cancel()
    timer.join()
    assert line.endswith("\n"), process.communicate(timeout=_TIMEOUT_S)
    return line[:-1]


@contextmanager
def locked_elsewhere(path: Path, how: str = "our lock") -> Iterator[subprocess.Popen[str]]:
    """Another process keeps everybody from writing, with our lock or with "SQLite's lock", inside of the block.

    `communicate("")` with it ends that earlier.
    """
    with start(_LOCK, path, how) as process:
        assert read_line(process) == "locked"
        yield process
        process.communicate("")


def run_together(script: str, arguments: list[tuple[object, ...]]) -> list[tuple[str, str, int]]:
    """Start a script once per tuple of arguments, tell all of them to go when all are ready; output and exit codes."""
    with ExitStack() as stack:
        processes = [stack.enter_context(start(script, *args)) for args in arguments]
        for process in processes:
            assert read_line(process) == "ready"
        for process in processes:
            assert process.stdin is not None
            process.stdin.write("go\n")
            process.stdin.flush()
        return [(*process.communicate(timeout=_TIMEOUT_S), process.returncode) for process in processes]


def run(script: str, *arguments: object, warnings: str = "error") -> subprocess.CompletedProcess[str]:
    """Run a script in a process of its own to its end."""
    process = start(script, *arguments, warnings=warnings)
    try:
        stdout, stderr = process.communicate(timeout=_TIMEOUT_S)
    except subprocess.TimeoutExpired:
        _kill(process)
        stdout, stderr = process.communicate()
        raise AssertionError(f"The script hangs. {stdout}\n{stderr}") from None
    return subprocess.CompletedProcess(process.args, process.returncode, stdout, stderr)


def run_ok(script: str, *arguments: object, warnings: str = "error") -> str:
    """Run a script that must succeed; what it printed."""
    done = run(script, *arguments, warnings=warnings)
    assert (done.returncode, done.stderr) == (0, ""), done.stderr
    return done.stdout


def until(condition: Callable[[], object]) -> None:
    """Wait for something that another thread is about to do."""
    deadline = time.monotonic() + PATIENCE_S
    pause = threading.Event()
    while not condition():
        assert time.monotonic() < deadline, "it did not happen"
        pause.wait(0.0005)


def interrupt_after(calls: int, function: Callable[[], object], files: Collection[str]) -> bool:
    """Call a function in a thread, with a KeyboardInterrupt where Python would notice a signal; whether it was hit.

    It is raised after so many calls by, or of, functions of these files, and of Thread.start().
    """
    outcome: list[bool] = []
    remaining = calls

    def interrupt(frame: FrameType, event: str, _value: object) -> None:
        nonlocal remaining
        is_counted = frame.f_code.co_filename in files or frame.f_code is threading.Thread.start.__code__
        remaining -= is_counted and event in ("call", "c_return")
        if not remaining:
            sys.setprofile(None)
            raise KeyboardInterrupt

    def call() -> None:
        try:
            sys.setprofile(interrupt)
            function()
        except KeyboardInterrupt:
            outcome.append(True)
        else:
            sys.setprofile(None)
            outcome.append(False)

    thread = threading.Thread(target=call, daemon=True)
    thread.start()
    thread.join(PATIENCE_S)
    assert outcome, f"it has not come back after an interrupt after {calls} calls"
    return outcome[0]


@contextmanager
def standing_still(store: Store) -> Iterator[apsw.Connection]:
    """The writer thread waits inside of a transaction for as long as the block lasts."""
    entered, leave = threading.Event(), threading.Event()
    connections = []

    def hold(connection: apsw.Connection) -> None:
        connections.append(connection)
        entered.set()
        assert leave.wait(PATIENCE_S)

    def transact() -> None:
        with suppress(StoreError):  # its commit may fail on purpose
            store.transact(hold)

    thread = threading.Thread(target=transact)
    thread.start()
    assert entered.wait(PATIENCE_S)
    try:
        yield connections[0]
    finally:
        leave.set()
        thread.join()


def note_waits(queue: TelemetryQueue) -> threading.Event:
    """An event that is set as soon as a producer waits for room in the queue."""
    awaited, wait = threading.Event(), queue._wait_for_room

    def note() -> None:
        awaited.set()
        wait()

    queue._wait_for_room = note  # type: ignore[method-assign]
    return awaited


class Disk:
    """Refuses the next `failures` commits of a store."""

    def __init__(self, store: Store) -> None:
        self.failures = 0
        store.transact(lambda connection: connection.set_commit_hook(self._refuse))

    def _refuse(self) -> bool:
        self.failures -= 1
        return self.failures >= 0


def make_spans(tracer: WorkflowTracer, count: int, name: str = "span") -> None:
    """Append finished spans, numbered."""
    for number in range(count):
        with tracer.span(f"{name} {number}"):
            pass


def add_scope(name: str) -> Callable[[apsw.Connection], str]:
    """A transaction that is easy to recognise: it inserts a scope of this name, and returns the name."""

    def add(connection: apsw.Connection) -> str:
        connection.execute("INSERT INTO scope_records (name) VALUES (?)", (name,)).fetchall()
        return name

    return add


def rows(store: Store, query: str) -> list[tuple[Any, ...]]:
    """What readers of this process see."""
    with store.read() as connection:
        return connection.execute(query).fetchall()


def names(store: Store) -> list[str]:
    """Names of the stored spans, sorted."""
    return sorted(name for (name,) in rows(store, "SELECT name FROM span_records"))


def added_scopes(store: Store) -> list[str]:
    """Names of the scopes that `add_scope` inserted, in order."""
    return [name for (name,) in rows(store, "SELECT name FROM scope_records WHERE scope_no > 1 ORDER BY scope_no")]


def log_item(store: Store, body: str) -> LogItem:
    """A log record outside of any span."""
    return LogItem(
        time_ns=1,
        severity_number=9,
        severity_text="INFO",
        body=body,
        attributes=None,
        logger="tests",
        resource=store.resource(None),
        scope=None,
        span_id=None,
        task_no=None,
        has_task_id=False,
        is_span_event=False,
    )


def transact_within(store: Store, seconds: float, function: Callable[[apsw.Connection], Any]) -> Any:
    """The result of a transaction, or "hangs" if there is none in time. Leaves no thread behind."""
    results: list[Any] = []
    thread = threading.Thread(target=lambda: results.append(store.transact(function)))
    thread.start()
    thread.join(seconds)
    if thread.is_alive():
        command = store.writer._commands.popleft()
        command.result = "hangs"
        command.finish()
        thread.join()
    return results[0]
