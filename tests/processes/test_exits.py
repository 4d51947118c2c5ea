"""How processes end, and what is stored then: everything, except after os._exit() and signals that nobody handles."""

from __future__ import annotations

import signal
from typing import TYPE_CHECKING

import pytest
from store_support import outside, until

if TYPE_CHECKING:
    from process_support import Played, Stage

# Name -> script and exit code. Each leaves in the store exactly what it acknowledges.
ENDS = {
    "end of the script": ("make('last')", 0),
    "sys.exit inside of a span": ("with spanned('last'):\n    sys.exit(3)", 3),
    "an exception inside of a span": ("with spanned('last'):\n    raise ValueError('no data')", 1),
    "a thread that goes on after the end of the script": (
        """
def work():
    threading.main_thread().join()
    for number in range(100):
        make(f"late {number}")
threading.Thread(target=work).start()
""",
        0,
    ),
    "a pool that goes on after the end of the script": (
        """
pool = ThreadPoolExecutor(2)
for number in range(100):
    pool.submit(make, f"late {number}")
""",
        0,
    ),
    "a function of atexit": ("client()\natexit.register(make, 'at exit')", 0),
    "a handler of SIGTERM that exits": (
        """
signal.signal(signal.SIGTERM, lambda *_: sys.exit(4))
with spanned("last"):
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(60)
""",
        4,
    ),
    "Ctrl-C": (
        """
signal.signal(signal.SIGINT, signal.default_int_handler)
with spanned("last"):
    os.kill(os.getpid(), signal.SIGINT)
    time.sleep(60)
""",
        -2,
    ),
    "a daemon thread that stands still": (
        """
done = threading.Event()
def work():
    for number in range(100):
        make(f"daemon {number}")
    done.set()
    time.sleep(60)
threading.Thread(target=work, daemon=True).start()
done.wait()
""",
        0,
    ),
    "os._exit after a flush": ("make('last')\nclient().flush()\nos._exit(5)", 5),
    "a forked child that falls off the end": (
        """
with spanned("outer"):
    pid = os.fork()
    if pid:
        print(wait_for_child(pid))
if not pid:
    make("child, below nothing")
make(f"both {bool(pid)}")
""",
        0,
    ),
    "a forked child that exits": (
        """
with spanned("outer"):
    if not os.fork():
        make("child", "outer")
        sys.exit(0)
    os.wait()
""",
        0,
    ),
    "a forked child that fails": (
        """
with spanned("outer"):
    if not os.fork():
        make("child", "outer")
        raise ValueError("no data")
    os.wait()
""",
        0,
    ),
    "a forked child that flushes and leaves": (
        """
with spanned("outer"):
    if not os.fork():
        make("child", "outer")
        client().flush()
        os._exit(0)
    os.wait()
""",
        0,
    ),
}


def check(played: Played) -> None:
    """What was acknowledged is stored once, in its place."""
    stored, acknowledged = set(played.stored), set(played.acknowledged)
    assert (stored, len(played.stored)) == (acknowledged, len(stored)), played.complaints


@pytest.mark.parametrize("end", ENDS)
def test_nothing_is_lost(end: str, stage: Stage) -> None:
    """Every span that was over before the process ended is stored once; a parent's open span ends in the parent."""
    script, code = ENDS[end]
    played = stage.play("make('first')\n" + script)
    assert played.code == code, played.complaints
    if end.startswith("a forked child") and "outer" in script:
        # The child leaves the block, too, and acknowledges a span that is not its own.
        by_parent = next(row for row in played.acknowledged if row[0] == "first")[3]
        played.acknowledged = [row for row in played.acknowledged if row[0] != "outer" or row[3] == by_parent]
    check(played)


def test_a_span_of_the_parent_lasts_as_long_as_there(stage: Stage) -> None:
    """A child that leaves the parent's span, or ends it by hand, neither ends nor changes what is stored of it."""
    script = """
parent = client().tracer_provider.get_tracer("mine").start_span("by hand")
with client().tracer.span("outer") as outer:
    client().flush()
    pid = os.fork()
    if not pid:
        outer.set_attribute("child", True)
        parent.end()
        outer.end()
        sys.exit(0)
    wait_for_child(pid)
    client().flush()
    with client()._store.read() as connection:
        print(connection.execute("SELECT count(*) FROM span_records WHERE duration_ns IS NOT NULL").get)
parent.end()
"""
    assert stage.play_output(script) == ["0"]
    assert outside(stage.path, "SELECT name, attributes, scope FROM spans ORDER BY name") == [
        ("by hand", "{}", "mine"),
        ("outer", "{}", "tilebox.com/observability"),
    ]


def test_os_exit_without_flush(stage: Stage) -> None:
    """os._exit() loses what is not committed yet, at most; what was flushed is there."""
    played = stage.play("make('flushed')\nclient().flush()\nmake('maybe')\nos._exit(0)")
    assert played.acknowledged[0] in played.stored
    assert set(played.stored) <= set(played.acknowledged)


def test_sigterm_without_handler(stage: Stage) -> None:
    """A process that dies of SIGTERM has stored what it made, once the writer has had its 50 milliseconds."""
    process = stage.start("make('last')\nprint('made', flush=True)\nsys.stdin.readline()")
    assert process.stdout is not None
    assert process.stdout.readline() == "made\n"
    until(lambda: outside(stage.path, "SELECT count(*) FROM spans") == [(1,)])
    process.send_signal(signal.SIGTERM)
    played = stage.end(process)
    assert played.code == -signal.SIGTERM
    check(played)


def test_daemon_threads_that_never_stop(stage: Stage) -> None:
    """Daemon threads that go on writing neither hinder the exit nor lose what they did before it began."""
    script = """
def work(name):
    number = 0
    while True:
        make(f"{name} {number}")
        number += 1
client()
for name in "abcd":
    threading.Thread(target=work, args=(name,), daemon=True).start()
while os.fstat(_acks).st_size < 10_000:
    time.sleep(0.001)
before = os.fstat(_acks).st_size
print(before)
"""
    played = stage.play(script)
    assert (played.code, played.complaints) == (0, "")
    stored = set(played.stored)
    assert len(played.stored) == len(stored)
    before = stage.acknowledged_before(int(played.output[0]))
    assert len(before) > 4
    assert set(before) <= stored
    assert {row[0] for row in stored} <= {row[0] for row in played.acknowledged} | {
        f"{name} {sum(row[0].startswith(name) for row in played.acknowledged)}" for name in "abcd"
    }


def test_nothing_is_stored_without_the_exit_hook(stage: Stage) -> None:
    """Were it not for atexit, the end of the script would lose what was appended last."""
    off = """
from tilebox_local.storage import store, writer
atexit.unregister(store.close_all)
writer.Writer._wait = lambda self: time.sleep(60)  # not by chance, either
"""
    played = stage.play(off + "make('last')")
    assert (played.code, played.stored, len(played.acknowledged)) == (0, [], 1)
