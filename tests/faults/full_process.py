"""Use a store on a disk that is, or gets, full: `python full_process.py STORE FILLER WHAT`. It says what is committed.

`fill` writes until the disk is full, goes on, frees FILLER and goes on; `fill-early` is its control, which acknowledges
what it has only appended, and dies. `die` leaves a log behind, `die-bare` without the reserve of the lock file. `start`
opens the store and writes, before and after FILLER is freed.
"""

import json
import os
import sys
from pathlib import Path

from batches import append_batch, commit_batch

from tilebox_local import Client
from tilebox_local.errors import StoreError, StoreFullError
from tilebox_local.storage import writer
from tilebox_local.storage.lockfile import LockFile

FLOOD = 3000
ROOM = 1000
PAYLOAD = "x" * 20_000


def say(**what):
    """Tell the test."""
    os.write(1, f"{json.dumps(what)}\n".encode())


def refused(function):
    """The class of the StoreError that comes out of it, None if it works. Any other error ends the process."""
    try:
        function()
    except StoreError as error:
        return type(error).__name__
    return None


def fill(client, filler, *, is_early):
    """Write until there is no room; then more than the queue holds; then free some room."""
    client._store.writer.queue.limit = ROOM
    for batch in range(10**6):
        append_batch(client, "w", batch, PAYLOAD)
        if is_early:
            say(ack=batch)
        try:
            commit_batch(client, "w", batch)
        except StoreFullError:
            break
        if not is_early:
            say(ack=batch)
    if is_early:
        os._exit(0)
    for number in range(FLOOD):
        with client.tracer.span(f"flood {number}"):
            pass
    say(
        flush=refused(client.flush),
        transact=refused(lambda: commit_batch(client, "w", 1)),
        read=len(client.jobs().query()),
        dropped=client.stats().dropped_count,
    )
    filler.unlink()
    commit_batch(client, "w", batch)
    client.flush()
    say(ack=batch, spans=10 * (batch + 1) + FLOOD, stats=vars(client.stats()))
    client.close()


def start(path, filler):
    """Open a store on a full disk, read it, and write once there is room."""
    try:
        client = Client(path)
    except StoreError as error:
        say(opened=type(error).__name__)
        filler.unlink()
        client = Client(path)
    else:
        say(opened=None)
    with client._store.read() as connection:
        stored = connection.execute("SELECT count(*) FROM span_records WHERE name GLOB 'w *'").get
    append_batch(client, "cold", 0, PAYLOAD)
    say(read=stored, flush=refused(client.flush), reserve=reserved(path))
    filler.unlink(missing_ok=True)
    client.flush()
    say(ack=0, stats=vars(client.stats()), reserve=reserved(path))
    client.close()


def reserved(path):
    """Bytes of the disk that the lock file holds."""
    return Path(f"{path}.lock").stat().st_blocks * 512


def main(path, filler, what):
    """Do it."""
    writer._RETRY_S = (0.001,) * 5
    if what == "die-bare":
        LockFile.reserve = lambda self: None
    if what == "start":
        start(path, Path(filler))
        return
    client = Client(path)
    if what.startswith("fill"):
        fill(client, Path(filler), is_early=what == "fill-early")
        return
    for batch in range(20):
        append_batch(client, "w", batch)
        commit_batch(client, "w", batch)
        say(ack=batch)
    os._exit(0)


if __name__ == "__main__":
    main(*sys.argv[1:])
