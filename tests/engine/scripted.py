"""Workflows whose tasks do what a test says: `Script` holds one function per task name, and runs them on a client."""

from functools import partial
from typing import ClassVar

from tilebox_local import Task, clock
from tilebox_local.engine.crashes import bury, find_remains
from tilebox_local.engine.tasks import (
    claim_task,
    complete_task,
    extend_leases,
    fail_task,
    lose_task,
    runnable_identifiers,
)


class Do(Task):
    """Does what the current script has for its name, or nothing."""

    name: str
    script: ClassVar["Script"]

    def execute(self, context):
        self.script.ran.append(self.name)
        self.script.behaviour.get(self.name, _nothing)(context)


def _nothing(context):
    """Behaviour of tasks that a script does not mention."""


def fail(context):
    """Behaviour of a task that fails."""
    raise ValueError("no data")


def subtasks(*names, **options):
    """Behaviour of a task that submits these subtasks, with the same options."""
    return lambda context: context.submit_subtasks([Do(name) for name in names], **options)


class Script:
    """Tasks of one client: what they do, and in which order they ran."""

    def __init__(self, client):
        self.client = client
        self.jobs = client.jobs()
        self.ran = []
        self.behaviour = {}
        Do.script = self

    def submit(self, *roots, max_retries=0, **behaviour):
        """Submit a job of these root tasks (default: one named root), with a function for each task that has a part."""
        self.behaviour |= behaviour
        return self.jobs.submit("job", [Do(name) for name in roots or ["root"]], max_retries=max_retries)

    def run(self, cluster=None):
        """Run what can be run, with a runner of its own."""
        self.client.runner(cluster, tasks=[Do]).run_all()

    def play(self, *roots, max_retries=0, **behaviour):
        """Submit and run; the job afterwards."""
        job = self.submit(*roots, max_retries=max_retries, **behaviour)
        self.run()
        return self.jobs.find(job)

    def column(self, column):
        """A column of the view `tasks` by task name."""
        with self.client._store.read() as connection:
            return dict(connection.execute(f"SELECT json_extract(input, '$'), {column} FROM tasks ORDER BY task_no"))

    def states(self):
        """State by task name, in the order of submission."""
        return self.column("state")

    def displays(self):
        """Display by task name."""
        return self.column("display")


class Engine:
    """The engine's calls on the store of a client, as a runner makes them that serves `Do`."""

    def __init__(self, client):
        self.store = client._store

    def claim(self, *, cluster_no=1, runner_no=None, lease_s=30):
        """Claim a task; None if there is none."""
        return self.store.transact(
            lambda connection: claim_task(
                connection,
                cluster_no=cluster_no,
                identifiers=runnable_identifiers(connection, [("Do", 0, 0)]),
                runner_no=runner_no,
                after=None,
                now_ns=clock.wall_ns(),
                lease_expires_boot_ns=clock.boot_ns() + lease_s * 1_000_000_000,
            )
        )

    def complete(self, claimed, submissions=None, progress=()):
        """Report a computed task; whether it counted."""
        return self._report(complete_task, claimed, display=None, submissions=submissions, progress=progress)

    def fail(self, claimed, *, was_workflow_error=True, progress=()):
        """Report a failed task; whether it counted."""
        return self._report(fail_task, claimed, display=None, was_workflow_error=was_workflow_error, progress=progress)

    def lose(self, claimed, reason="It died.", last_seen_ns=None):
        """Give up a task whose runner is gone; whether it was running."""
        return self._report(lose_task, claimed, reason=reason, last_seen_ns=last_seen_ns)

    def _report(self, function, claimed, **report):
        call = partial(function, task_no=claimed.task_no, attempt=claimed.attempt, now_ns=clock.wall_ns(), **report)
        return self.store.transact(call)

    def extend(self, claimed, lease_s=30):
        """Extend the lease of a task; whether it is still held."""
        expires = clock.boot_ns() + lease_s * 1_000_000_000
        kept = self.store.transact(
            lambda connection: extend_leases(connection, [(claimed.task_no, claimed.attempt)], expires)
        )
        return kept == {claimed.task_no}

    def look_for_lost(self):
        """Queue the tasks of dead runners again, as seen by a process without runners of its own; how many."""

        def look(connection):
            remains = find_remains(connection, own_runners=(), boot_ns=clock.boot_ns())
            bury(connection, remains, now_ns=clock.wall_ns())
            return len(remains.tasks)

        return self.store.transact(look)
