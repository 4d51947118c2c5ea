"""What a process does that is going to be killed: `work` says through a pipe which batch or task is committed."""

from __future__ import annotations

import itertools
import os
import time
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from batches import adding, append_batch, commit_batch

from tilebox_local import Client, ExecutionContext, Task

if TYPE_CHECKING:
    from multiprocessing.connection import Connection

    import apsw

_running: list[str] = []
_pipe: Connection | None = None


class Step(Task):
    """Submits one leaf: the effect that must commit together with its completion."""

    number: int

    def execute(self, context: ExecutionContext) -> None:
        _begin(f"step {self.number}")
        with context.tracer.span("working"):
            context.logger.info("working on %s", self.number)
        context.progress("steps").done(1)
        context.submit_subtask(Leaf(self.number))


class Leaf(Task):
    """The effect of a step."""

    number: int

    def execute(self, context: ExecutionContext) -> None:
        _begin(f"leaf {self.number}")


def _begin(task: str) -> None:
    """A task begins after the transaction that reported the one before it, so that one is committed now."""
    if _pipe is not None and _running:
        _pipe.send_bytes(_running.pop().encode())
    _running.append(task)


def work(pipe: Connection, path: str, durability: str, kind: str, name: str) -> None:
    """Work until killed, or until there is nothing to do.

    "write" acknowledges batches that are committed, "run" executes tasks and acknowledges those that are completed;
    "write-early" is the control, which acknowledges them before.
    """
    global _pipe
    _pipe = pipe
    with Path(os.devnull).open("w") as nowhere:
        os.dup2(nowhere.fileno(), 1)  # log records of the tasks
    with Client(path, durability=durability) as client:
        if kind == "run":
            client.runner(tasks=[Step, Leaf]).run_all()
            _begin("nothing")
            return
        for batch in itertools.count():
            append_batch(client, name, batch)
            if kind == "write":
                commit_batch(client, name, batch)
                pipe.send_bytes(str(batch).encode())
            else:
                client._store.transact(partial(_add_early, pipe, name, batch))


def _add_early(pipe: Connection, name: str, batch: int, connection: apsw.Connection) -> None:
    """The transaction of a batch, acknowledged before its commit, with a gap for the kill to fall into."""
    if batch % 2:
        adding(name, batch)(connection)
    pipe.send_bytes(str(batch).encode())
    time.sleep(0.05)
