"""Forks under load: nobody hangs, nothing is lost or stored twice."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest
from store_support import IS_NIGHTLY

if TYPE_CHECKING:
    from process_support import Stage

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")

LOAD = """
FORKS = int(sys.argv[1])
stop = threading.Event()

def write(name):
    number = 0
    while not stop.is_set():
        with spanned(f"{name} {number}"):
            make(f"{name} {number} below", f"{name} {number}")
        number += 1
        time.sleep(0.0005)

def read():
    while not stop.is_set():
        with client()._store.read() as connection:
            connection.execute("SELECT count(*) FROM span_records").fetchall()
        time.sleep(0.001)

def transact():
    while not stop.is_set():
        client()._store.transact(lambda connection: None)
        time.sleep(0.001)

def reopen():
    while not stop.is_set():
        with Client(os.environ["STORE"] + "2") as other:
            with other.tracer.span("other"):
                pass
        time.sleep(0.001)

def fork(name):
    for number in range(FORKS):
        with spanned(f"{name} {number}"):
            started = time.monotonic()
            pid = os.fork()
            if not pid:
                os.close(read_end)
                make(f"{name} {number} child", f"{name} {number}")
                with client()._store.read() as connection:
                    connection.execute("SELECT count(*) FROM span_records").fetchall()
                client().close()
                os._exit(0)
            code = wait_for_child(pid)
        os.write(write_end, f"{code}\\n".encode())

read_end, write_end = os.pipe()
client()
load = [threading.Thread(target=write, args=(name,)) for name in "abcd"]
load += [threading.Thread(target=each) for each in (read, transact, reopen)]
forking = [threading.Thread(target=fork, args=(name,)) for name in ("x", "y")]
for thread in load + forking:
    thread.start()
for thread in forking:
    thread.join()
stop.set()
for thread in load:
    thread.join()
print(os.read(read_end, 65536).decode().split())
"""


@pytest.mark.parametrize("forks", [5, pytest.param(1000 if IS_NIGHTLY else 100, marks=pytest.mark.soak)])
def test_two_threads_fork_while_four_write(forks: int, stage: Stage) -> None:
    """Children forked by two threads at once, while others write, read, commit and open, write; all spans are there."""
    played = stage.end(stage.start("import warnings\nwarnings.simplefilter('ignore')\n" + LOAD, forks), 20 + 5 * forks)
    assert (played.code, played.complaints, played.output) == (0, "", [str(["0"] * 2 * forks)])
    assert sorted(played.stored, key=str) == played.acknowledged
    assert sum(row[0].endswith("child") for row in played.stored) == 2 * forks


@pytest.mark.skipif(not os.path.exists("/proc/self/fd"), reason="needs /proc")  # noqa: PTH110
@pytest.mark.parametrize(
    "use",
    [
        "(make('late'), time.sleep(0.2))",
        "client()._store.transact(lambda connection: None)",
        "Client(os.environ['STORE'] + '2')",
    ],
)
def test_nobody_opens_the_file_in_the_last_moment(use: str, stage: Stage) -> None:
    """What a thread begins after the store has let go of the file waits for the fork; the child inherits no file."""
    script = f"""
use = lambda: {use}
begun = threading.Event()
def work():
    begun.set()
    use()

def last_moment():
    thread.start()
    begun.wait()
    thread.join(0.3)

# Of the functions before a fork, the first one to be registered runs last: the store's has let go of the file by then.
last_moment_hook.append(last_moment)
thread = threading.Thread(target=work)
client()
pid = os.fork()
if not pid:
    files = [os.readlink(f"/proc/self/fd/{{fd}}") for fd in os.listdir("/proc/self/fd") if fd not in ("0", "1", "2")
             and os.path.exists(f"/proc/self/fd/{{fd}}")]
    print([file for file in files if ".db" in file and not file.endswith(".lock")], flush=True)
    os._exit(0)
wait_for_child(pid)
thread.join()
make("after")
"""
    hook = (
        "import os\nlast_moment_hook = []\nos.register_at_fork(before=lambda: [each() for each in last_moment_hook])\n"
    )
    assert stage.play_output(script, first=hook) == ["[]"]
