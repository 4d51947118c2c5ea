"""Signals that come during a fork: none of them ends halfway what a fork has to do, and none of them is lost."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest
from store_support import locked_elsewhere, outside, read_line, run_ok, start

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")

AT_ANY_MOMENT = """
import os, signal, sys, threading
from tilebox_local.errors import StoreError
from tilebox_local.storage import checkpointer, ending, forking, guard, readers, signals, writer
from tilebox_local.storage import store as stores

FILES = {module.__file__ for module in (checkpointer, ending, forking, guard, readers, signals, stores, writer)}
parent = os.getpid()
pause = threading.Event()
hit_in = None
ignored = []
sys.unraisablehook = lambda unraisable: ignored.append(unraisable.exc_type)

def use():
    for store in opened:
        store.transact(lambda connection: None)
        with store.read() as connection:
            connection.execute("SELECT count(*) FROM spans").fetchall()
    stores.open_store(sys.argv[1] + "3").close()

def use_in_parent():
    done = []
    thread = threading.Thread(target=lambda: done.append(use()), daemon=True)
    thread.start()
    thread.join(30)
    assert done, "it hangs"

def wait_for_interrupt():
    while hit_in == os.getpid() and not ignored:
        pause.wait(30)

def child():
    signal.alarm(30)
    code = 9
    try:
        try:
            wait_for_interrupt()
        finally:
            use()
        code = 0
    except KeyboardInterrupt:
        code = 1
    except StoreError as error:
        if "was forked while" in str(error):
            code = 2
    finally:
        os._exit(code)

def fork(moment):
    def interrupt(frame, event, _value):
        nonlocal moment
        global hit_in
        moment -= event in ("call", "c_return") and frame.f_code.co_filename in FILES
        if not moment:
            sys.setprofile(None)
            hit_in = os.getpid()
            signal.raise_signal(signal.SIGINT)

    sys.setprofile(interrupt)
    pid = os.fork()
    sys.setprofile(None)
    if not pid:
        child()
    wait_for_interrupt()

opened = [stores.open_store(sys.argv[1]), stores.open_store(sys.argv[1] + "2"), stores.open_store(":memory:")]
use()
moment, end = 0, None
while end != "not hit":
    moment += 1
    ignored.clear()
    hit_in = None
    try:
        fork(moment)
        end = "ignored" if hit_in else "not hit"
    except KeyboardInterrupt:
        end = "raised"
    sys.setprofile(None)
    assert os.getpid() == parent
    _, status = os.wait()
    use_in_parent()
    print(end, os.waitstatus_to_exitcode(status), sep=", ", flush=True)
"""
USABLE, INTERRUPTED, REFUSED = 0, 1, 2


def test_ctrl_c_at_any_moment_of_a_fork(path: Path) -> None:
    """Ctrl-C at any moment of what a fork does is raised once the fork is over, where it came; all stores work.

    Only where Python itself swallows it, before our first instruction, does a child refuse to use what it inherits.
    """
    lines = run_ok(AT_ANY_MOMENT, path).splitlines()
    assert lines.pop(0) == f"ignored, {REFUSED}"
    in_parent = [line for line in lines if line == f"raised, {USABLE}"]
    in_both = [line for line in lines if line == f"raised, {INTERRUPTED}"]  # what both do after the fork
    in_one = [line for line in lines if line == f"not hit, {INTERRUPTED}"]
    assert sorted(lines) == sorted(in_parent + in_both + in_one)
    assert len(in_parent) > 50
    assert len(in_both) > 20


WAITING = """
import os, signal, sys, threading, time
from tilebox_local.storage import writer
from tilebox_local.storage.store import open_store

locked, other = open_store(sys.argv[1]), open_store(sys.argv[1] + "2")
for store in (locked, other):
    store.transact(lambda connection: None)
print("open", flush=True)
sys.stdin.readline()
threading.Thread(target=locked.transact, args=(lambda connection: None,)).start()
while not locked.writer._is_writing:
    time.sleep(0.001)
main = threading.get_ident()

def interrupt():
    def is_forking():
        frame = sys._current_frames()[main]
        while frame is not None and frame.f_code is not writer.Writer.before_fork.__code__:
            frame = frame.f_back
        return frame is not None

    while not is_forking():
        time.sleep(0.001)
    signal.pthread_kill(main, signal.SIGINT)
    print("interrupted", flush=True)

thread = threading.Thread(target=interrupt)
thread.start()
try:
    if not os.fork():
        for store in (locked, other):
            store.transact(lambda connection: None)
        os._exit(5)
    os.wait()
    threading.Event().wait(30)
except KeyboardInterrupt:
    print("raised", flush=True)
for store in (locked, other):
    store.transact(lambda connection: None)
    store.close()
print("closed", flush=True)
"""


def test_ctrl_c_while_a_fork_waits(path: Path) -> None:
    """Ctrl-C while a fork waits for a writer, which waits for another process, leaves nobody waiting for ever."""
    with start(WAITING, path) as process:
        assert read_line(process) == "open"
        with locked_elsewhere(path):
            assert process.stdin is not None
            process.stdin.write("\n")
            process.stdin.flush()
            assert read_line(process) == "interrupted"
        assert [read_line(process) for _ in range(2)] == ["raised", "closed"]
        assert process.wait(30) == 0
    assert outside(path, "SELECT count(*) FROM spans") == [(0,)]


def test_handlers_of_signals_during_a_fork(path: Path) -> None:
    """A handler runs once, when its signal comes; what it raises comes after the fork; handlers are as they were."""
    script = """
import os, signal, sys, threading
from tilebox_local.storage.store import Store, open_store

class Alarm(Exception):
    pass

heard = []

def note(number, frame):
    heard.append("TERM")

def ring(number, frame):
    heard.append("ALRM")
    raise Alarm

def first(number, frame):
    heard.append("HUP")
    signal.signal(number, note)

before_fork = Store.before_fork

def before(store):
    for number in (signal.SIGTERM, signal.SIGALRM, signal.SIGHUP):
        signal.raise_signal(number)
    assert heard == ["TERM", "ALRM", "HUP"]
    before_fork(store)

store = open_store(sys.argv[1])
Store.before_fork = before
for number, handler in (signal.SIGTERM, note), (signal.SIGALRM, ring), (signal.SIGHUP, first):
    signal.signal(number, handler)
try:
    if not os.fork():
        store.transact(lambda connection: None)
        handlers = [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGALRM, signal.SIGHUP)]
        os._exit(0 if (heard, handlers) == (["TERM", "ALRM", "HUP"], [note, ring, note]) else 1)
    threading.Event().wait(30)
except Alarm:
    print("rung", os.waitstatus_to_exitcode(os.wait()[1]))
print(heard, [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGALRM, signal.SIGHUP)]
      == [note, ring, note])
store.close()
"""
    assert run_ok(script, path).splitlines() == ["rung 0", "['TERM', 'ALRM', 'HUP'] True"]


def test_handlers_of_signals_are_left_alone_by_forks_of_other_threads(path: Path) -> None:
    """A fork by another thread than the main one leaves the handlers as they are; Ctrl-C is raised at once."""
    script = """
import os, signal, sys, threading
from tilebox_local.storage.store import Store, open_store

before_fork, interrupted = Store.before_fork, threading.Event()

def before(store):
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    signal.pthread_kill(threading.main_thread().ident, signal.SIGINT)
    assert interrupted.wait(30)
    before_fork(store)

def fork():
    if not os.fork():
        store.transact(lambda connection: None)
        os._exit(0)
    print(os.waitstatus_to_exitcode(os.wait()[1]))

store = open_store(sys.argv[1])
Store.before_fork = before
thread = threading.Thread(target=fork)
try:
    thread.start()
    while True:
        threading.Event().wait(0.01)
except KeyboardInterrupt:
    interrupted.set()
thread.join()
store.close()
"""
    assert run_ok(script, path) == "0\n"


def test_handlers_of_signals_are_left_alone_without_a_store(path: Path) -> None:
    """A fork replaces no handler unless a store is open: that would undo what C code has installed."""
    script = """
import os, signal, sys
from tilebox_local.storage.store import open_store

def fork():
    pid = os.fork()
    if not pid:
        os._exit(0)
    os.waitpid(pid, 0)
    replaced, installed[:] = len(installed), []
    return replaced

installed, install = [], signal.signal
signal.signal = lambda *arguments: installed.append(arguments) or install(*arguments)
before = fork()
with open_store(sys.argv[1]).read():
    pass
store = open_store(sys.argv[1])
meanwhile = fork()
store.close()
store.close()
print(before, meanwhile > 0, fork())
"""
    assert run_ok(script, path) == "0 True 0\n"


MEMORY = """
import os, sys, threading
from tilebox_local import Client

client = Client(":memory:")
stop = threading.Event()

def work():
    while not stop.is_set():
        with client.tracer.span("of the parent"):
            pass
        client._store.transact(lambda connection: None)
        client.sql("SELECT count(*) FROM spans")

client.sql("SELECT 1")  # a module that another thread is importing cannot be imported in a child
with client.tracer.span("before"):
    pass
client.flush()
threads = [threading.Thread(target=work) for _ in range(2)]
for thread in threads:
    thread.start()
codes = []
for _ in range(20):
    if not os.fork():
        with client.tracer.span("of the child"):
            pass
        client.flush(30)
        names = set(client.sql("SELECT name FROM spans").name)
        client.close()
        os._exit(0 if {"before", "of the child"} <= names else 1)
    codes.append(os.waitstatus_to_exitcode(os.wait()[1]))
stop.set()
for thread in threads:
    thread.join()
assert "of the child" not in set(client.sql("SELECT name FROM spans").name)
client.close()
print(codes)
"""


def test_a_fork_copies_a_store_in_memory() -> None:
    """A child goes on with a copy of a store in memory, also if threads of the parent are busy with it."""
    assert run_ok(MEMORY, warnings="ignore") == f"{[0] * 20}\n"
