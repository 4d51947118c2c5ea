"""Check and insert submitted tasks: the roots of a job, or the subtasks of a computed task."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from tilebox_local import ids
from tilebox_local.catalog import run_many, value
from tilebox_local.data import MAX_DISPLAY_CHARS, TaskState, parse_version
from tilebox_local.engine.clusters import cluster_no
from tilebox_local.errors import ArgumentError
from tilebox_local.storage.attributes import clean_text, encodable
from tilebox_local.storage.redaction import redact_text

if TYPE_CHECKING:
    import apsw

    from tilebox_local.data import TaskIdentifier, TaskSubmissionGroup, TaskSubmissions

__all__ = ["MAX_INPUT_BYTES", "Parent", "insert_submissions", "validate_submissions"]

MAX_INPUT_BYTES = 2048
MAX_GROUPS = 64
_MAX_RETRIES = (1 << 31) - 1
_QUEUED, _SKIPPED = TaskState.QUEUED.value, TaskState.SKIPPED.value


@dataclass(frozen=True, slots=True)
class Parent:
    """Where subtasks go: below `task_no`, into the optional branch `branch_no` (None: not optional).

    `is_branch_failed`: the branch that the task itself is in has failed.
    """

    task_no: int
    branch_no: int | None
    is_branch_failed: bool


@dataclass(frozen=True, slots=True)
class Inserted:
    """Tasks that were inserted, with consecutive numbers; below a failed optional branch all of them are settled."""

    first_task_no: int
    last_task_no: int
    unsettled_count: int


def validate_submissions(submissions: TaskSubmissions) -> None:
    """Raise ArgumentError, naming the task and the rule, for what the engine would not accept."""
    groups = submissions.task_groups
    if not groups:
        raise ArgumentError("At least one task must be submitted.")
    if len(groups) > MAX_GROUPS:
        raise ArgumentError(
            f"The tasks form {len(groups)} groups of equal dependencies, but at most {MAX_GROUPS} can be submitted "
            f"together. Submit a long chain step by step: each task submits the next one as its subtask."
        )
    for index, group in enumerate(groups):
        _validate_group(submissions, index, group)
    _check_acyclic(groups)


def _validate_group(submissions: TaskSubmissions, index: int, group: TaskSubmissionGroup) -> None:
    count = len(group.inputs)
    columns = (
        group.identifier_pointers,
        group.cluster_slug_pointers,
        group.display_pointers,
        group.max_retries_values,
    )
    if count == 0 or any(len(column) != count for column in columns) or len(group.optional_values) not in (0, count):
        raise ArgumentError(f"Task group {index} must have at least one task and one value of each kind per task.")
    for position, task_input in enumerate(group.inputs):
        if type(task_input) is not bytes:  # a task's own _serialize may return anything
            identifier = submissions.identifier_lookup[group.identifier_pointers[position]]
            raise ArgumentError(f"The input of task {identifier.name} is {type(task_input).__name__}, not bytes.")
        if len(task_input) > MAX_INPUT_BYTES:
            identifier = submissions.identifier_lookup[group.identifier_pointers[position]]
            raise ArgumentError(
                f"The input of task {identifier.name} has {len(task_input)} bytes, but at most {MAX_INPUT_BYTES} are "
                f"allowed. Pass large data through context.job_cache or a file, and its key as input."
            )
    lookups = (
        (group.identifier_pointers, submissions.identifier_lookup, "identifier"),
        (group.cluster_slug_pointers, submissions.cluster_slug_lookup, "cluster"),
        (group.display_pointers, submissions.display_lookup, "display"),
    )
    for pointers, lookup, what in lookups:
        if min(pointers) < 0 or max(pointers) >= len(lookup):
            raise ArgumentError(f"Task group {index} points to a {what} that was not submitted.")
    for retries in group.max_retries_values:
        if not hasattr(retries, "__index__"):
            raise ArgumentError(f"max_retries must be a whole number, but is {retries!r}.")
        if retries < 0:
            raise ArgumentError(f"max_retries must not be negative, but is {retries}.")
        if retries > _MAX_RETRIES:
            raise ArgumentError(f"max_retries must not be more than {_MAX_RETRIES}, but is {retries}.")


def _check_acyclic(groups: list[TaskSubmissionGroup]) -> None:
    waiting = [set(group.dependencies_on_other_groups) for group in groups]
    for index, dependencies in enumerate(waiting):
        unknown = [other for other in dependencies if not 0 <= other < len(groups)]
        if unknown:
            raise ArgumentError(f"Task group {index} depends on group {unknown[0]}, which was not submitted.")
    settled: set[int] = set()
    while len(settled) < len(groups):
        free = {index for index in range(len(groups)) if index not in settled and waiting[index] <= settled}
        if not free:
            stuck = sorted(set(range(len(groups))) - settled)
            raise ArgumentError(f"The dependencies of task groups {stuck} form a cycle; none of them could start.")
        settled |= free


def insert_submissions(
    connection: apsw.Connection,
    submissions: TaskSubmissions,
    *,
    job_no: int,
    parent: Parent | None,
    is_canceled: bool,
    now_ns: int,
) -> Inserted:
    """Insert the tasks group by group, ready where nothing is left to wait for; SKIPPED below a failed branch.

    Raises ArgumentError and NotFoundError (cluster).
    """
    validate_submissions(submissions)
    identifiers = [identifier_no(connection, identifier) for identifier in submissions.identifier_lookup]
    clusters = [cluster_no(connection, slug) for slug in submissions.cluster_slug_lookup]
    displays = [redact_text(clean_text(display))[:MAX_DISPLAY_CHARS] for display in submissions.display_lookup]
    is_skipped = parent is not None and parent.is_branch_failed
    group_nos = _insert_groups(connection, submissions.task_groups, job_no, is_skipped=is_skipped)
    task_ids = iter(ids.new_ids(now_ns, sum(len(group.inputs) for group in submissions.task_groups)))
    rows: list[tuple[Any, ...]] = []
    for group, group_no in zip(submissions.task_groups, group_nos, strict=True):
        is_ready = not (group.dependencies_on_other_groups or is_canceled or is_skipped)
        optional = group.optional_values or [False] * len(group.inputs)
        rows.extend(
            (
                next(task_ids).bytes,
                job_no,
                None if parent is None else parent.task_no,
                group_no,
                None if parent is None else parent.branch_no,
                identifiers[group.identifier_pointers[i]],
                clusters[group.cluster_slug_pointers[i]],
                _SKIPPED if is_skipped else _QUEUED,
                int(is_ready),
                int(bool(optional[i])),
                int(group.max_retries_values[i]),
                now_ns,
                now_ns if is_ready else None,
                group.inputs[i],
                displays[group.display_pointers[i]],
            )
            for i in range(len(group.inputs))
        )
    run_many(connection, "insert_task", rows)
    last_task_no = value(connection, "last_task")
    return Inserted(last_task_no - len(rows) + 1, last_task_no, 0 if is_skipped else len(rows))


def _insert_groups(
    connection: apsw.Connection, groups: list[TaskSubmissionGroup], job_no: int, *, is_skipped: bool
) -> list[int]:
    awaited = {other for group in groups for other in group.dependencies_on_other_groups}
    numbers = []
    for index, group in enumerate(groups):
        dependencies = 0 if is_skipped else len(set(group.dependencies_on_other_groups))
        unsettled = None if index not in awaited else 0 if is_skipped else len(group.inputs)
        numbers.append(value(connection, "insert_group", (job_no, unsettled, dependencies)))
    edges = [
        (numbers[other], numbers[index])
        for index, group in enumerate(groups)
        for other in sorted(set(group.dependencies_on_other_groups))
    ]
    if edges:
        run_many(connection, "insert_group_dependency", edges)
    return numbers


def identifier_no(connection: apsw.Connection, identifier: TaskIdentifier) -> int:
    """Row of a task identifier, inserted if it is new. Raises ArgumentError for an invalid one."""
    size = len(identifier.name.encode("utf-8", "replace"))
    if encodable(identifier.name) != identifier.name or not 1 <= size <= 256:
        raise ArgumentError(f"A task name has 1 to 256 bytes of UTF-8, unlike {identifier.name!a} with {size}.")
    try:
        major, minor = parse_version(identifier.version)
    except ValueError as error:
        raise ArgumentError(f"{error} of task {identifier.name}; a version looks like v1.0.") from None
    key = (identifier.name, major, minor)
    number: int | None = value(connection, "find_identifier", key)
    if number is None:
        number = value(connection, "insert_identifier", key)
    return number
