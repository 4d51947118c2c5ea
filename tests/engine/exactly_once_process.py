"""A runner for the test of many runners: `python exactly_once_process.py STORE EFFECTS (fenced | unfenced)`.

Each task writes a line to the file of effects and submits one subtask. A task that is told to hold says so and waits
for a line on stdin; its lease, much shorter than usual, runs out meanwhile.
"""

import os
import sys

from tilebox_local import Client, Task
from tilebox_local.engine import tasks as engine
from tilebox_local.observability.logging import configure_console_logging
from tilebox_local.runner import task_runner


def record(line):
    """Append a line to the file of effects."""
    os.write(_effects, f"{line}\n".encode())


def say(word):
    """Tell the test."""
    os.write(1, f"{word}\n".encode())


class Effect(Task):
    """What a task leaves in the store."""

    number: int

    def execute(self, context):
        record(f"effect {self.number}")


class Work(Task):
    """Submits its effect; the first time that one is run which holds, it does so after a while."""

    number: int
    holds: bool

    def execute(self, context):
        record(f"work {self.number}")
        context.submit_subtask(Effect(self.number))
        context.progress().done(1)
        if self.holds:
            try:
                os.close(os.open(f"{sys.argv[2]}.{self.number}", os.O_CREAT | os.O_EXCL))
            except FileExistsError:
                return  # it has been held before
            say(f"holding {self.number}")
            sys.stdin.readline()
            say("going on")


def believe_everything(connection, task_no, attempt):
    """The engine's look at the attempt that a report names, without its fence."""
    return engine._Reported(*engine.run(connection, "task_for_report", (task_no,))[0])


if __name__ == "__main__":
    _effects = os.open(sys.argv[2], os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    task_runner.LEASE_S = 1
    task_runner._EXTEND_EVERY_S = 0.2
    configure_console_logging(enabled=False)
    if sys.argv[3] == "unfenced":
        engine._running = believe_everything
    with Client(sys.argv[1]) as client:
        runner = client.runner(tasks=[Work, Effect])
        say("ready")
        runner.run_forever()
