"""Children of multiprocessing and concurrent.futures: each span once, below the span that the work was given in."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from store_support import outside

if TYPE_CHECKING:
    from process_support import Stage

METHODS = ["fork", "spawn", "forkserver"]
RUN = {
    "Process": """
    processes = [context.Process(target=make, args=work) for work in works]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
        assert process.exitcode == 0
""",
    "Pool": """
    with context.Pool(2) as pool:
        pool.starmap(make, works)
""",
    "closed Pool": """
    pool = context.Pool(2)
    pool.starmap(make, works)
    pool.close()
    pool.join()
""",
    "ProcessPoolExecutor": """
    with ProcessPoolExecutor(2, mp_context=context) as pool:
        list(pool.map(make, *zip(*works)))
""",
}
SILENT_WRITER = """
from tilebox_local.storage import writer

def wait(self):  # nothing is committed by itself: what is stored was committed because the process ended
    while not (self._commands or self._stopping or self._pause):
        self._get_wakeup(60.0)
writer.Writer._wait = wait
"""
SCRIPT = (
    SILENT_WRITER
    + """
def main():
    context = multiprocessing.get_context(sys.argv[1])
    with spanned("outer"):
        # A forked child has the context of its parent; every other one has to be told.
        told = None if sys.argv[1] == "fork" else carrier()
        works = [(f"child {number}", "outer", told) for number in range(int(sys.argv[2]))]
        run(context, works)
    make("after")

def run(context, works):
"""
)
MAIN = """
if __name__ == "__main__":
    main()
"""


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("kind", RUN)
def test_children_lose_nothing(kind: str, method: str, stage: Stage) -> None:
    """Spans of children that end without close() are stored once, in the trace and below the span of the parent."""
    count = 2 if kind == "Process" else 6
    played = stage.play_well(SCRIPT + RUN[kind] + MAIN, method, count)
    assert played.names() == ["after", *(f"child {number}" for number in range(count)), "outer"]
    assert len({trace for name, _, trace, _ in played.stored if name != "after"}) == 1
    assert len({pid for *_, pid in played.stored}) > 1


@pytest.mark.parametrize(("kind", "method"), [("Pool", "spawn"), ("Process", "forkserver")])
def test_the_finalizers_are_what_keeps_the_last_spans(kind: str, method: str, stage: Stage) -> None:
    """Without the store's own ending, children of a Pool and of forkserver lose what they appended last."""
    off = """
from tilebox_local.storage.ending import MultiprocessingEnd
MultiprocessingEnd.prepare = lambda self: None
"""
    played = stage.play(off + SCRIPT + RUN[kind] + MAIN, method, 2)
    assert played.code == 0
    assert (len(played.stored), len(played.acknowledged)) == (2, 4)


@pytest.mark.parametrize("method", METHODS)
def test_threads_that_go_on(method: str, stage: Stage) -> None:
    """Spans of threads and of a ThreadPoolExecutor that nobody has waited for in a child are not lost."""
    script = """
work = threading.Event()

def late():
    work.wait()
    make("late")

def last():
    threading.main_thread().join()
    make("last")

def child():
    make("child")
    # Later than what the package has to be done as the work ends.
    multiprocessing.util.Finalize(None, work.set, exitpriority=50)
    ThreadPoolExecutor(1).submit(late)
    threading.Thread(target=last).start()

def main():
    process = multiprocessing.get_context(sys.argv[1]).Process(target=child)
    process.start()
    process.join()
    print(process.exitcode)
"""
    played = stage.play_well("import multiprocessing.util\n" + SILENT_WRITER + script + MAIN, method)
    assert (played.output, played.names()) == (["0"], ["child", "last", "late"])
    assert outside(stage.path, "SELECT count(*) FROM incidents") == [(0,)]


@pytest.mark.parametrize("method", METHODS)
def test_a_thread_that_begins_late(method: str, stage: Stage) -> None:
    """Spans of a thread that opens the first store of a child, when its work is done, are not lost either."""
    script = """
def late():
    threading.main_thread().join()
    make("late")

def child():
    threading.Thread(target=late).start()

def main():
    process = multiprocessing.get_context(sys.argv[1]).Process(target=child)
    process.start()
    process.join()
    print(process.exitcode)
"""
    played = stage.play_well(SILENT_WRITER + script + MAIN, method)
    assert (played.output, played.names()) == (["0"], ["late"])
    assert outside(stage.path, "SELECT count(*) FROM incidents") == [(0,)]


@pytest.mark.parametrize("method", METHODS)
def test_a_client_of_the_main_module(method: str, stage: Stage) -> None:
    """A client that the main module opens, and so every child that imports it, too, loses nothing at a Pool's end."""
    played = stage.play_well("client()\n" + SCRIPT + RUN["Pool"] + MAIN, method, 2)
    assert len(played.stored) == 4


@pytest.mark.parametrize("method", METHODS)
def test_a_daemon_process(method: str, stage: Stage) -> None:
    """A daemonic child, which dies by SIGTERM as its parent exits, has stored what it acknowledged before."""
    script = """
def child(connection):
    for number in range(5):
        make(f"child {number}")
    connection.send("done")
    time.sleep(60)

def main():
    context = multiprocessing.get_context(sys.argv[1])
    ours, theirs = context.Pipe()
    context.Process(target=child, args=(theirs,), daemon=True).start()
    ours.recv()
    make("parent")
"""
    assert len(stage.play_well(script + MAIN, method).stored) == 6


def test_a_child_that_handles_sigterm_itself(stage: Stage) -> None:
    """A handler that the program has installed stays."""
    script = """
def child(connection):
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(7))
    make("child")
    connection.send("done")
    time.sleep(60)

def main():
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=child, args=(theirs,))
    process.start()
    ours.recv()
    process.terminate()
    process.join()
    print(process.exitcode)
"""
    assert stage.play_well(script + MAIN).output == ["7"]


@pytest.mark.parametrize("method", METHODS)
def test_a_signal_that_the_main_thread_does_not_notice(method: str, stage: Stage) -> None:
    """SIGTERM ends a child that waits in C also if Python's handler was not asked to run before the wait began."""
    script = """
import threading

def child(connection, never):
    make("child")
    # As if it had come a moment too early for the wait: another thread gets it, so it interrupts nothing.
    kill = lambda: signal.pthread_kill(threading.get_ident(), signal.SIGTERM)
    threading.Timer(0.1, kill).start()
    connection.send("done")
    never.acquire()

def main():
    context = multiprocessing.get_context(sys.argv[1])
    ours, theirs = context.Pipe()
    never = context.Semaphore(0)
    process = context.Process(target=child, args=(theirs, never))
    process.start()
    ours.recv()
    process.join(20)
    print(process.exitcode)
    process.kill()
"""
    assert stage.play_well(script + MAIN, method).output == ["-15"]


def test_a_signal_to_the_child_of_a_child(stage: Stage) -> None:
    """A signal that a process handles, which a child has forked, is not taken for one of the child's."""
    script = """
def child(connection):
    make("child")
    pid = os.fork()
    if not pid:
        signal.signal(signal.SIGTERM, lambda *_: os._exit(5))
        connection.send("forked")
        while True:
            signal.pause()
    connection.send(pid)
    connection.send(wait_for_child(pid))
    connection.recv()

def main():
    context = multiprocessing.get_context("fork")
    ours, theirs = context.Pipe()
    process = context.Process(target=child, args=(theirs,))
    process.start()
    said = {ours.recv(), ours.recv()}
    os.kill((said - {"forked"}).pop(), signal.SIGTERM)
    print(ours.recv())
    process.join(0.3)
    print(process.exitcode)
    ours.send("end")
    process.join()
    print(process.exitcode)
"""
    assert stage.play_well(script + MAIN).output == ["5", "None", "0"]


def test_a_child_of_another_thread_is_terminated_at_once(stage: Stage) -> None:
    """A signal to a process that a thread of a child forks ends that process, however early it comes, not the child."""
    first = """
import os, signal
are_shot = False
# Earlier than the package's own hook.
os.register_at_fork(after_in_child=lambda: are_shot and os.kill(os.getpid(), signal.SIGTERM))
"""
    script = """
def fork():
    global are_shot
    are_shot = True
    pid = os.fork()
    if not pid:
        time.sleep(20)
        os._exit(0)
    are_shot = False
    print(wait_for_child(pid), signal.pthread_sigmask(signal.SIG_BLOCK, []), flush=True)

def child():
    make("child")
    thread = threading.Thread(target=fork)
    thread.start()
    thread.join()
    time.sleep(0.3)  # the child must not end itself a moment later
    print("alive", flush=True)

def main():
    process = multiprocessing.get_context("fork").Process(target=child)
    process.start()
    process.join()
    print(process.exitcode)
"""
    played = stage.end(stage.start(script + MAIN, first=first))
    assert (played.complaints, played.output, played.names()) == ("", ["-15 set()", "alive", "0"], ["child"])


def test_a_terminated_child_dies_of_the_signal(stage: Stage) -> None:
    """Process.terminate() ends a child as ever, also one whose spans cannot be written: it waits two seconds."""
    script = """
from tilebox_local.storage import store as store_module
store_module._TERMINATION_TIMEOUT_S = 0.2

def child(connection):
    make("child")
    client().flush()
    connection.send("done")
    connection.recv()
    make("child, too late")
    connection.send("done")
    time.sleep(60)

def main():
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=child, args=(theirs,))
    process.start()
    ours.recv()
    def hold(connection):
        ours.send("go on")
        ours.recv()
        process.terminate()
        process.join()
    client()._store.transact(hold)
    print(process.exitcode)
"""
    played = stage.play(script + MAIN)
    assert (played.code, played.output, played.names()) == (0, ["-15"], ["child"])


def test_children_of_children(stage: Stage) -> None:
    """A child of a child, forked or spawned, loses nothing either."""
    script = """
def grandchild(name):
    make(name)

def child(method):
    make(f"child {method}")
    process = multiprocessing.get_context(method).Process(target=grandchild, args=(f"grandchild {method}",))
    process.start()
    process.join()
    pid = os.fork()
    if pid == 0:
        make(f"forked {method}")
        sys.exit(0)
    wait_for_child(pid)

def main():
    make("parent")
    for method in ("fork", "spawn"):
        process = multiprocessing.get_context(method).Process(target=child, args=(method,))
        process.start()
        process.join()
        assert process.exitcode == 0
"""
    played = stage.play_well(script + MAIN)
    assert len({pid for *_, pid in played.stored}) == 7


IN_TASK = """
def work(name, given):
    return make(name, "task/Root", given)

class Root(Task):
    def execute(self, task_context: ExecutionContext) -> None:
        context = multiprocessing.get_context(sys.argv[1])
        told = None if sys.argv[1] == "fork" else carrier()
        with context.Pool(2) as pool:
            pool.starmap(work, [(f"child {number}", told) for number in range(6)])
        print("executed")

def main():
    job = client().jobs().submit("job", Root())
    client().runner(tasks=[Root]).run_all()
    # The trace of another job, which the task of the first one might be taken for.
    assert len(client().jobs().query_spans(job)) == 8
"""


@pytest.mark.parametrize("method", METHODS)
def test_a_pool_inside_of_a_task(method: str, stage: Stage) -> None:
    """The spans of a task's Pool belong to its job; the task runs once, and is not given back as the Pool ends."""
    played = stage.play(IN_TASK + MAIN, method)
    assert (played.code, played.output, played.complaints) == (0, ["executed"], "")
    children = [row for row in played.stored if row[0].startswith("child")]
    assert children == played.acknowledged
    assert outside(stage.path, "SELECT DISTINCT job_name FROM spans") == [("job",)]
    assert outside(stage.path, "SELECT name, state, attempts, crashes FROM tasks") == [("Root", "COMPUTED", 1, 0)]
    assert outside(stage.path, "SELECT count(*) FROM runners") == [(1,)]
