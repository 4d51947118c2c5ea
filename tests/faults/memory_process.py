"""Use stores while memory runs out: `python memory_process.py FOLDER (heap | space | early) STEPS`.

`heap` limits SQLite's own memory, for STEPS stores one after the other, from hardly anything up; `early` is its
control, which acknowledges what it has only appended. `space` limits the address space of the process to what it has
and STEPS times 2 MiB, and keeps what it writes in memory, too, so that it ends in MemoryError or in peace.
"""

import faulthandler
import json
import os
import resource
import sys
from pathlib import Path

import apsw
from batches import ROWS, append_batch, commit_batch

from tilebox_local import Client
from tilebox_local.errors import StoreError
from tilebox_local.storage import writer

WATCHDOG_S = 60
BATCHES = 12
FLOOD, ROOM = 400, 100
HEAP_STEP = 24 * 1024
SPACE_STEP = 2 * 2**20
PAYLOAD = "x" * 3000


def say(**what):
    """Tell the test."""
    os.write(1, f"{json.dumps(what)}\n".encode())


def attempt(function, errors):
    """Whether it works. Only a StoreError may come out of it."""
    try:
        function()
    except StoreError as error:
        errors.append(type(error).__name__)
        return False
    return True


def heap(path, number, *, is_early):
    """One store: written and read while SQLite has little memory to spare, and afterwards."""
    errors, acked, pending = [], [], []
    client = Client(path)
    apsw.hard_heap_limit(apsw.memory_used() + number * HEAP_STEP)
    for batch in range(BATCHES):
        append_batch(client, "w", batch, PAYLOAD)
        pending.append(batch)
        while pending and attempt(lambda: commit_batch(client, "w", pending[0]), errors):
            acked.append(pending.pop(0))
        attempt(lambda: client.jobs().query(), errors)
    if is_early:
        acked += pending
        say(store=str(path), acked=acked, errors=errors)
        os._exit(0)
    client._store.writer.queue.limit = ROOM
    for flood in range(FLOOD):
        with client.tracer.span(f"flood {flood}") as span:
            span.set_attribute("payload", PAYLOAD)
    apsw.hard_heap_limit(0)
    for batch in pending:
        commit_batch(client, "w", batch)
        acked.append(batch)
    client.flush()
    stats = vars(client.stats())
    client.close()
    say(store=str(path), acked=acked, errors=errors, stats=stats, spans=ROWS * BATCHES + FLOOD)


def space(path, number):
    """One process whose address space ends soon."""
    client = Client(path)
    append_batch(client, "w", 0)
    commit_batch(client, "w", 0)
    size = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (size + number * SPACE_STEP, resource.RLIM_INFINITY))
    kept = []
    say(ack=0)
    for batch in range(1, 200):
        kept.append(bytes(64 * 1024))
        append_batch(client, "w", batch, PAYLOAD)
        try:
            commit_batch(client, "w", batch)
        except StoreError:
            break
        say(ack=batch)
    del kept
    resource.setrlimit(resource.RLIMIT_AS, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    client.close()
    say(stats=vars(client.stats()))


def main(folder, what, steps):
    """Do it."""
    faulthandler.dump_traceback_later(WATCHDOG_S, exit=True)
    writer._RETRY_S = (0.001,) * 5
    if what == "space":
        space(Path(folder) / "store.db", int(steps))
        return
    for number in range(int(steps)):
        faulthandler.dump_traceback_later(WATCHDOG_S, exit=True)
        heap(Path(folder) / f"{number}.db", number, is_early=what == "early")


if __name__ == "__main__":
    main(*sys.argv[1:])
