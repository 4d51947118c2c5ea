"""A runner in a process of its own: `python runner_process.py STORE (run_all | run_forever) [unpolled]`.

It says on stdout what its tasks do, one word a line, and its tasks that wait do so until a line comes on stdin. Tests
in other processes import the same task classes. Unpolled, nothing but a change of the file wakes an idle runner.
"""

import os
import signal
import sys
from typing import ClassVar

from tilebox_local import Client, Task
from tilebox_local.runner import task_runner
from tilebox_local.storage import watch


def say(word):
    """Tell the test."""
    sys.stdout.write(f"{word}\n")
    sys.stdout.flush()


class Quick(Task):
    """Is computed at once."""

    name: str

    def execute(self, context):
        context.logger.info("quick %s", self.name)


class Fan(Task):
    """Submits `count` tasks that wait for each other's process."""

    count: int

    def execute(self, context):
        context.submit_subtasks([Step(i) for i in range(self.count)])


class Step(Task):
    """Tells the test that it runs, and goes on when the test says so."""

    number: int

    def execute(self, context):
        say(f"step {self.number}")
        sys.stdin.readline()


class Wait(Task):
    """Waits in a span of its own for a line, and exits if it says so; in the process of the test it calls `here`."""

    name: str
    here: ClassVar = staticmethod(lambda: None)

    def execute(self, context):
        if not is_runner_process:
            self.here()
            return
        with context.tracer.span("user's span"):
            say("waiting")
            answer = sys.stdin.readline().strip()
        if answer == "exit":
            sys.exit(3)
        context.current_task.display = f"done late by {os.getpid()}"
        context.progress().add(99)
        context.submit_subtask(Quick("from a zombie"))
        say(f"answered {answer}")


is_runner_process = __name__ == "__main__"
TASKS = [Quick, Fan, Step, Wait]

if is_runner_process:
    # Who starts the tests in the background may have SIGINT ignored, which children inherit.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    if sys.argv[3:] == ["unpolled"]:
        task_runner._LOOK_AROUND_EVERY_NS = 10**18
        watch._BACKSTOP_S = 3600.0
    with Client(sys.argv[1], name="runner process") as client:
        runner = client.runner(tasks=TASKS)
        say("ready")
        getattr(runner, sys.argv[2])()
        say("finished")
