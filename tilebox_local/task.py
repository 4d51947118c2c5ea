"""How users write tasks: the `Task` base class, what a running task may do, and submissions of subtasks.

Does not do: running tasks (runner/), the bytes of inputs (serialization.py). Names, signatures and error
texts follow `tilebox.workflows.task`; task classes of the official package are accepted wherever a task is.
"""

# No postponed annotations here: the signature of Task.execute is part of an error message.

import inspect
import typing
from abc import ABC, ABCMeta, abstractmethod
from collections.abc import Awaitable, Sequence
from dataclasses import Field, dataclass, field, is_dataclass
from types import NoneType, UnionType
from typing import (
    TYPE_CHECKING,
    Any,
    Protocol,
    Self,
    TypeVar,
    Union,
    dataclass_transform,
    get_args,
    get_origin,
)

from tilebox_local.data import RunnerContext, TaskIdentifier, TaskSubmissionGroup, TaskSubmissions
from tilebox_local.serialization import decode_fields, encode_fields

if TYPE_CHECKING:
    from uuid import UUID

    from tilebox_local.cache import JobCache
    from tilebox_local.observability.logging import StructuredLogger
    from tilebox_local.observability.tracing import WorkflowTracer

__all__ = [
    "META_ATTR",
    "CurrentJob",
    "CurrentTask",
    "ExecutionContext",
    "FutureTask",
    "ProgressUpdate",
    "Task",
    "TaskMeta",
    "deserialize_task",
    "merge_future_tasks_to_submissions",
    "serialize_task",
]

#: Class attribute that holds a task's TaskMeta; the official package uses the same name.
META_ATTR = "__tilebox_task_meta__"
_DEFAULT_VERSION = "v0.0"


class _TaskType(ABCMeta):
    """Makes each subclass of Task a dataclass with a TaskMeta. An ABCMeta, so that ABCs can be mixed in."""

    def __new__(mcs, name: str, bases: tuple[type, ...], namespace: dict[str, Any], **kwargs: Any) -> "_TaskType":
        cls = super().__new__(mcs, name, bases, namespace, **kwargs)
        if not bases:
            return cls  # Task itself is no task that could be submitted
        dataclass(typing.cast("type", cls))
        is_executable = "execute" in namespace
        if is_executable:
            _check_execute(name, namespace["execute"], bases)
        setattr(cls, META_ATTR, TaskMeta(_identifier_of(cls), is_executable))
        return cls


@dataclass_transform(field_specifiers=(Field, field))
@dataclass
class Task(metaclass=_TaskType):
    """Base class of tasks. Subclasses are dataclasses: their fields are the task's input.

    A task runs under the name of its class and version v0.0, unless it has a static method or class method
    `identifier() -> tuple[str, str]`. It can be run if its class itself defines `execute`.
    """

    def execute(self, context: "ExecutionContext") -> Awaitable[None] | None:
        """Do the work of the task; may be `async def`. What it returns is ignored.

        Each execution gets an instance and a context of its own. Runners may execute several tasks at once on
        different threads, so everything that instances share must be safe for that.

        Args:
            context: Submits subtasks, and gives access to cache, tracer, logger and progress.
        """

    def _serialize(self) -> bytes:
        return serialize_task(self)

    @classmethod
    def _deserialize(cls, task_input: bytes, context: RunnerContext | None = None) -> Self:  # noqa: ARG003
        return deserialize_task(cls, task_input)


def _check_execute(class_name: str, execute: Any, bases: tuple[type, ...]) -> None:
    """Raise TypeError unless the method takes a task and a context, and returns nothing."""
    if getattr(execute, "__override__", False):
        return  # @typing.override: the author vouches for it
    expected = inspect.signature(next(base.execute for base in reversed(bases) if hasattr(base, "execute")))
    actual = inspect.signature(execute)
    if len(actual.parameters) != len(expected.parameters):
        raise TypeError(
            f"Expected a function signature of {class_name}.execute{expected}, but got {class_name}.execute{actual}!"
        )
    try:
        annotation = typing.get_type_hints(execute).get("return", actual.return_annotation)
    except (NameError, TypeError):
        annotation = actual.return_annotation
    if not _means_no_value(annotation):
        raise TypeError(f"Expected {class_name}.execute{actual} to not have a return value!")


def _means_no_value(annotation: Any) -> bool:
    if annotation in (None, NoneType, inspect.Signature.empty, "None", "Awaitable[None]"):
        return True
    origin, args = get_origin(annotation), get_args(annotation)
    if origin in (Union, UnionType):
        return all(_means_no_value(arg) for arg in args)
    is_awaitable = isinstance(origin, type) and issubclass(origin, Awaitable)
    return is_awaitable and args[-1:] in ((None,), (NoneType,))


def _identifier_of(cls: Any) -> TaskIdentifier:
    """The identifier that a class declares, else its name. Raises TypeError: the class cannot be defined."""
    name: Any = cls.__name__
    version: Any = _DEFAULT_VERSION
    if hasattr(cls, "identifier"):
        try:
            name, version = cls.identifier()
        except TypeError:
            raise TypeError(
                f"Failed to invoke {cls.__name__}.identifier(). Is it a staticmethod or classmethod without parameters?"
            ) from None
        except ValueError:
            name = version = None
        if not isinstance(name, str) or not isinstance(version, str):
            raise TypeError(f"Expected {cls.__name__}.identifier() to return a tuple of two strings")
    try:
        return TaskIdentifier.from_name_and_version(name, version)
    except ValueError as error:
        raise TypeError(str(error)) from None


@dataclass(frozen=True)
class TaskMeta:
    """What a task class says about itself: its identifier, and whether it can be run or only submitted."""

    identifier: TaskIdentifier
    executable: bool

    @staticmethod
    def for_task(task: "type | Task") -> "TaskMeta":
        """The metadata of a task or task class, ours or the official one's. Raises TypeError for others."""
        cls = task if isinstance(task, type) else type(task)
        meta = getattr(cls, META_ATTR, None)
        if isinstance(meta, TaskMeta):
            return meta
        identifier = getattr(meta, "identifier", None)
        if identifier is None:
            raise TypeError(f"{cls.__name__} is not a task!")
        return TaskMeta(TaskIdentifier(identifier.name, identifier.version), bool(getattr(meta, "executable", False)))


def serialize_task(task: Task) -> bytes:
    """The task's input: its fields as JSON.

    No field gives empty bytes, one field its bare value, or the wire bytes of a protobuf message, more fields
    a JSON object. Fields with `metadata={"skip_serialization": True}` are left out.

    Raises:
        TypeError: If this is no task, or a value has no JSON form; the message has the path of the value.
    """
    if not is_dataclass(task):
        raise TypeError("Cannot serialize the given task - did you inherit from Task?")
    return encode_fields(task)


_TaskT = TypeVar("_TaskT", bound=Task)


def deserialize_task(task_cls: type[_TaskT], task_input: bytes) -> _TaskT:
    """The task of a class that `serialize_task` gave this input for.

    Raises:
        ArgumentError: If the input does not fit the fields (a ValueError that names them).
        TypeError: If a field has a type that inputs cannot hold.
    """
    return decode_fields(task_cls, task_input)


@dataclass
class FutureTask:
    """A subtask that is submitted when the current task has been computed.

    Raises:
        TypeError: If `task` is a class, not an instance of one.
    """

    index: int  #: position among the subtasks of the current task
    task: Task
    depends_on: list[int]  #: indices of subtasks of the same task
    cluster: str | None  #: None: the cluster of the runner
    max_retries: int
    optional: bool

    def __post_init__(self) -> None:
        if isinstance(self.task, type):
            TaskMeta.for_task(self.task)  # any other class is no task at all
            name = self.task.__name__
            raise TypeError(f"{name} is a class; submit an instance: {name}(...)")

    def identifier(self) -> TaskIdentifier:
        """Name and version of the task."""
        return TaskMeta.for_task(self.task).identifier

    def input(self) -> bytes:
        """The serialized task. Raises TypeError as `serialize_task` does."""
        return self.task._serialize()

    def display(self) -> str:
        """The label that the task starts with: the name of its class."""
        return type(self.task).__name__


class _Lookup(dict[Any, int]):
    """Numbers distinct values in order of first use."""

    def __missing__(self, key: Any) -> int:
        index = self[key] = len(self)
        return index


def merge_future_tasks_to_submissions(future_tasks: list[FutureTask], fallback_cluster: str) -> TaskSubmissions | None:
    """Group subtasks with the same dependencies and the same dependants; None if there are none.

    Takes time linear in the tasks and in the dependencies of distinct `depends_on` lists.

    Args:
        future_tasks: Subtasks of one task.
        fallback_cluster: Slug of the cluster for subtasks that name none.

    Raises:
        ValueError: If a subtask depends on an index that is not among the subtasks.
    """
    if not future_tasks:
        return None
    group_of = _assign_groups(future_tasks)
    groups: list[TaskSubmissionGroup] = []
    clusters, identifiers, displays = _Lookup(), _Lookup(), _Lookup()
    pointers: dict[type, tuple[int, int]] = {}  # a class has one identifier and one display
    for future in future_tasks:
        index = group_of[future.index]
        if index == len(groups):
            try:
                groups.append(TaskSubmissionGroup(sorted({group_of[dep] for dep in future.depends_on})))
            except KeyError as error:
                raise ValueError(f"Dependent task {error} does not exist") from None
        group = groups[index]
        kind = type(future.task)
        if kind not in pointers:
            pointers[kind] = identifiers[future.identifier()], displays[future.display()]
        identifier_pointer, display_pointer = pointers[kind]
        group.inputs.append(future.input())
        group.identifier_pointers.append(identifier_pointer)
        group.cluster_slug_pointers.append(clusters[future.cluster or fallback_cluster])
        group.display_pointers.append(display_pointer)
        group.max_retries_values.append(future.max_retries)
        group.optional_values.append(future.optional)
    return TaskSubmissions(groups, list(clusters), list(identifiers), list(displays))


def _assign_groups(future_tasks: list[FutureTask]) -> dict[int, int]:
    """Number of the group of each task by the task's index; groups are numbered in order of first use."""
    dependencies = _Lookup()  # distinct sets of dependencies
    by_list: dict[int, int] = {}  # submit_subtasks gives one list to all its tasks: hash it once
    dependencies_of = {}
    for future in future_tasks:
        key = id(future.depends_on)
        if key not in by_list:
            by_list[key] = dependencies[frozenset(future.depends_on)]
        dependencies_of[future.index] = by_list[key]

    # Tasks have the same dependants exactly if they are in the same sets of dependencies.
    used_in: dict[int, list[int]] = {}
    for members, number in dependencies.items():
        for member in members:
            used_in.setdefault(member, []).append(number)
    groups = _Lookup()
    return {index: groups[number, tuple(used_in.get(index, ()))] for index, number in dependencies_of.items()}


class ProgressUpdate:
    """Units of work that one execution adds to a progress indicator of its job; reported when it ends."""

    def __init__(self, label: str | None) -> None:
        self._label = label
        self._total = 0
        self._done = 0

    def add(self, count: int) -> None:
        """Raise the amount of work to do by `count` units."""
        self._total += count

    def done(self, count: int) -> None:
        """Raise the amount of work done by `count` units."""
        self._done += count


class CurrentJob(Protocol):
    """The job of the running task."""

    @property
    def id(self) -> "UUID":
        """Id of the job."""

    @property
    def name(self) -> str:
        """Name given at submission."""


class CurrentTask(Protocol):
    """The running task; `display` may be set, and is stored when the execution ends."""

    display: str | None

    @property
    def id(self) -> "UUID":
        """Id of the task."""

    @property
    def retry_count(self) -> int:
        """How often the task has failed and was tried again: 0 in the first attempt."""

    @property
    def job(self) -> CurrentJob:
        """The job of the task."""


class ExecutionContext(ABC):
    """What a running task may do."""

    current_task: CurrentTask  #: the task itself
    job_cache: "JobCache"  #: bytes shared by the tasks of the job

    @abstractmethod
    def submit_subtask(
        self,
        task: Task,
        depends_on: FutureTask | list[FutureTask] | None = None,
        cluster: str | None = None,
        max_retries: int = 0,
        optional: bool = False,
    ) -> FutureTask:
        """Add a subtask; it is submitted when the current task has been computed, and not if that fails.

        Args:
            task: The subtask.
            depends_on: Subtasks of the same execution that have to be computed before.
            cluster: Slug of the cluster; None is the cluster of the runner.
            max_retries: How many more times the subtask may run after a failure.
            optional: Whether the job goes on if the subtask fails, including the tasks that depend on it.

        Returns:
            The subtask, to be used in `depends_on` of others.

        Raises:
            TypeError: If `task` is a class, or `depends_on` is neither a FutureTask nor a list of them.
            ValueError: If it has a task of another execution.
        """

    @abstractmethod
    def submit_subtasks(
        self,
        tasks: Sequence[Task],
        depends_on: FutureTask | list[FutureTask] | None = None,
        cluster: str | None = None,
        max_retries: int = 0,
        optional: bool = False,
    ) -> list[FutureTask]:
        """Add several subtasks with the same options, as `submit_subtask` does; they keep their order."""

    @abstractmethod
    def submit_batch(self, tasks: Sequence[Task], cluster: str | None = None, max_retries: int = 0) -> list[FutureTask]:
        """Deprecated: `submit_subtasks` without dependencies."""

    @property
    @abstractmethod
    def runner_context(self) -> RunnerContext:
        """The object that all executions of the runner share."""

    @property
    @abstractmethod
    def tracer(self) -> "WorkflowTracer":
        """Tracer for spans below the span of the task."""

    @property
    @abstractmethod
    def logger(self) -> "StructuredLogger":
        """Logger whose records belong to the task."""

    @abstractmethod
    def progress(self, label: str | None = None) -> ProgressUpdate:
        """The progress indicator of a label; the same object each time. None and "" are the job's own."""
