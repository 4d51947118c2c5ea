"""Runner: which tasks a process can execute, and what their executions share."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from tilebox_local.data import TaskIdentifier, parse_version
from tilebox_local.errors import ArgumentError
from tilebox_local.task import TaskMeta

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tilebox_local.cache import JobCache
    from tilebox_local.client import Client
    from tilebox_local.data import Cluster, RunnerContext
    from tilebox_local.runner.task_runner import TaskRunner

__all__ = ["Runner"]


class Runner:
    """A registry of task classes, with the cache and context that their executions share.

    Connect it to a client to run tasks: `Runner(tasks=[MyTask]).connect_to(client).run_all()`. Classes written for the
    official package are accepted as they are.
    """

    def __init__(
        self,
        *,
        tasks: Sequence[type[Any]] | None = None,
        cache: JobCache | None = None,
        context: type[RunnerContext] | None = None,
    ) -> None:
        self.cache = cache
        self.context = context
        self._tasks: dict[TaskIdentifier, type[Any]] = {}
        if not isinstance(tasks, Iterable | None):
            raise TypeError(f"tasks is {tasks!r:.100}; pass a list of task classes, such as tasks=[MyTask].")
        for task in tasks or []:
            self.register(task)

    def register(self, task: type[Any]) -> None:
        """Add a task class.

        Raises:
            TypeError: it is no task.
            ArgumentError (a ValueError): it has no execute method of its own, or its identifier is registered already.
        """
        meta = TaskMeta.for_task(task)
        identifier = meta.identifier
        if not meta.executable:
            name = getattr(task, "__name__", type(task).__name__)
            shown = name if name == identifier.name else f"{name} ({identifier.name})"
            raise ArgumentError(
                f"Task {shown} is not executable. It must have an execute method in order to register it with a "
                f"task runner."
            )
        if identifier in self._tasks:
            raise ArgumentError(
                f"Duplicate task identifier: A task '{identifier.name}' with version '{identifier.version}' is "
                f"already registered."
            )
        self._tasks[identifier] = task if isinstance(task, type) else type(task)

    @property
    def task_identifiers(self) -> list[TaskIdentifier]:
        """Identifiers of the registered tasks, in the order of registration."""
        return list(self._tasks)

    @property
    def tasks_by_identifier(self) -> dict[TaskIdentifier, type[Any]]:
        """The registered tasks."""
        return self._tasks

    def identifier_for(self, name: str, major: int, minor: int) -> TaskIdentifier | None:
        """The registered identifier that runs a task of this version: the same, else the newest compatible one."""
        best: tuple[int, TaskIdentifier] | None = None
        for identifier in self._tasks:
            if identifier.name != name:
                continue
            own_major, own_minor = parse_version(identifier.version)
            if (own_major, own_minor) == (major, minor):
                return identifier
            if own_major == major and own_minor >= minor and (best is None or own_minor > best[0]):
                best = (own_minor, identifier)
        return None if best is None else best[1]

    def connect_to(self, client: Client, cluster: Cluster | str | None = None) -> TaskRunner:
        """A task runner of this registry on the store of `client`, serving `cluster` (default: the default cluster).

        Raises NotFoundError for an unknown cluster.
        """
        return client._connect_runner(self, cluster)
