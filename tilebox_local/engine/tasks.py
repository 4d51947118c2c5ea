"""Tasks: claim, report, lose. The state machine of schema.sql, one function per event.

Claiming is depth first within a job, else the oldest claimable task. A report counts only for the attempt that was
claimed: a runner that lost its lease can no longer change anything.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

from tilebox_local.catalog import run, run_many, value
from tilebox_local.data import MAX_DISPLAY_CHARS, TaskState
from tilebox_local.engine.submissions import Parent, insert_submissions
from tilebox_local.storage.attributes import clean_text, text_of
from tilebox_local.storage.redaction import redact_text

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    import apsw

    from tilebox_local.data import ProgressIndicator, TaskSubmissions

__all__ = [
    "MAX_CRASHES",
    "ClaimedJob",
    "ClaimedTask",
    "Position",
    "claim_task",
    "complete_task",
    "extend_leases",
    "fail_task",
    "job_of_task",
    "lose_task",
    "runnable_identifiers",
]

MAX_CRASHES = 10
_FAILED, _LOST, _RELEASED = 4, 7, 8  # outcomes in attempt_records
_MAX_PROGRESS_LABEL_CHARS = 100
_MAX_COUNT = (1 << 40) - 1  # the sum over a million tasks still fits


@dataclass(frozen=True, slots=True)
class Position:
    """Where a runner looks for its next task first: below `parent_no` (None: among the roots), then up the tree."""

    job_no: int
    parent_no: int | None


class ClaimedTask(NamedTuple):
    """A task that a runner has claimed. `attempt` is the token that its report must show."""

    task_no: int
    attempt: int
    task_id: bytes  # 16 bytes
    identifier_no: int
    input: bytes
    display: str | None
    retry_count: int
    started_ns: int
    parent_no: int | None
    job_no: int


class ClaimedJob(NamedTuple):
    """The job of a claimed task."""

    job_id: bytes  # 16 bytes
    name: str
    trace_parent: str
    submitted_ns: int
    trace_no: int | None  # None: nothing recorded its trace


@dataclass(frozen=True, slots=True)
class _Reported:
    task_no: int
    job_no: int
    parent_no: int | None
    group_no: int
    branch_no: int | None
    state: int
    optional: int
    max_retries: int
    retry_count: int
    retry_budget_start: int
    crash_count: int
    attempt: int
    started_ns: int
    unsettled_count: int
    cluster_no: int


# -- claim ------------------------------------------------------------------------------------------------------


def runnable_identifiers(connection: apsw.Connection, registered: Iterable[tuple[str, int, int]]) -> list[int]:
    """Rows of all identifiers that a runner of the registered (name, major, minor) can run, without duplicates."""
    found: dict[int, None] = {}
    for name, major, minor in registered:
        for number, _ in run(connection, "identifiers_of_name", (name, major, minor)):
            found[number] = None
    return list(found)


def claim_task(
    connection: apsw.Connection,
    *,
    cluster_no: int,
    identifiers: Sequence[int],
    runner_no: int | None,
    after: Position | None,
    now_ns: int,
    lease_expires_boot_ns: int,
) -> ClaimedTask | None:
    """Hand out one claimable task, or None. Costs a few index seeks, however many tasks are queued or finished."""
    task_no = _next_task_no(connection, cluster_no, identifiers, after)
    if task_no is None:
        return None
    run(
        connection,
        "claim_task",
        {"task_no": task_no, "runner_no": runner_no, "now_ns": now_ns, "lease_expires_boot_ns": lease_expires_boot_ns},
    )
    return ClaimedTask._make(run(connection, "claimed_task", (task_no,))[0])


def job_of_task(connection: apsw.Connection, job_no: int) -> ClaimedJob:
    """What a runner needs to know of a job; it may be kept."""
    return ClaimedJob._make(run(connection, "job_of_task", (job_no,))[0])


def _next_task_no(
    connection: apsw.Connection, cluster_no: int, identifiers: Sequence[int], after: Position | None
) -> int | None:
    """Depth first: below the last task, among its siblings, up the tree to the roots; then the oldest of any job."""
    if after is not None:
        parent = after.parent_no
        while parent is not None:
            family = run(connection, "children_of", (parent,))
            if not family:  # the runner's last job has been pruned meanwhile
                break
            first, last, grandparent = family[0]
            found = _oldest_between(connection, cluster_no, identifiers, first, last)
            if found is not None:
                return found
            parent = grandparent
        for first, last in run(connection, "roots_of", (after.job_no,)):
            found = _oldest_between(connection, cluster_no, identifiers, first, last)
            if found is not None:
                return found
    return _oldest(connection, "oldest_claimable", [(cluster_no, identifier) for identifier in identifiers])


def _oldest_between(
    connection: apsw.Connection, cluster_no: int, identifiers: Sequence[int], first: int | None, last: int | None
) -> int | None:
    if first is None:
        return None
    keys = [(cluster_no, identifier, first, last) for identifier in identifiers]
    return _oldest(connection, "oldest_claimable_between", keys)


def _oldest(connection: apsw.Connection, query: str, keys: Sequence[tuple[Any, ...]]) -> int | None:
    found = [value(connection, query, key) for key in keys]
    return min((number for number in found if number is not None), default=None)


def extend_leases(
    connection: apsw.Connection, attempts: Iterable[tuple[int, int]], lease_expires_boot_ns: int
) -> set[int]:
    """Extend the leases of (task_no, attempt) pairs; return the task_nos that are still theirs."""
    kept = set()
    for task_no, attempt in attempts:
        run(
            connection,
            "extend_lease",
            {"task_no": task_no, "attempt": attempt, "lease_expires_boot_ns": lease_expires_boot_ns},
        )
        if connection.changes():
            kept.add(task_no)
    return kept


# -- report -----------------------------------------------------------------------------------------------------


def complete_task(
    connection: apsw.Connection,
    *,
    task_no: int,
    attempt: int,
    display: str | None,
    submissions: TaskSubmissions | None,
    progress: Sequence[ProgressIndicator],
    now_ns: int,
) -> bool:
    """RUNNING -> COMPUTED, with its subtasks. Returns False, and changes nothing, if the attempt is not current."""
    task = _running(connection, task_no, attempt)
    if task is None:
        return False
    _end_attempt(connection, task, TaskState.COMPUTED, display, now_ns)
    _replace_progress(connection, task, progress)
    if submissions is None:
        _settle(connection, task, now_ns)
    else:
        branch_no = task.task_no if task.optional else task.branch_no
        inserted = insert_submissions(
            connection,
            submissions,
            job_no=task.job_no,
            # A task that runs while its branch fails may finish, but whatever it submits is skipped (contract 3.3),
            # also if it is optional itself: had it still been queued, it would not have run at all. What such a task
            # had submitted before the failure is a branch of its own, and goes on.
            parent=Parent(task.task_no, branch_no, _is_branch_failed(connection, task.branch_no)),
            is_canceled=_is_canceled(connection, task.job_no),
            now_ns=now_ns,
        )
        children = (inserted.unsettled_count, inserted.first_task_no, inserted.last_task_no, task.task_no)
        run(connection, "adopt_children", children)
        if not inserted.unsettled_count:
            _settle(connection, task, now_ns)
    return True


def fail_task(
    connection: apsw.Connection,
    *,
    task_no: int,
    attempt: int,
    display: str | None,
    was_workflow_error: bool,
    progress: Sequence[ProgressIndicator] | None,
    now_ns: int,
) -> bool:
    """RUNNING -> QUEUED while retries are left, else FAILED or FAILED_OPTIONAL. Returns False if not current.

    A task whose optional branch has failed meanwhile becomes SKIPPED instead of QUEUED. An error that is not the
    workflow's (the runner was shut down, say) does not use up a retry. `progress` None reports none: that of an earlier
    attempt stays.
    """
    task = _running(connection, task_no, attempt)
    if task is None:
        return False
    if progress is not None:
        _replace_progress(connection, task, progress)
    if not was_workflow_error:
        _requeue(connection, task, display, now_ns, outcome=_RELEASED)
    elif task.retry_count - task.retry_budget_start < task.max_retries:
        _requeue(connection, task, display, now_ns, outcome=_FAILED)
    else:
        _fail_for_good(connection, task, display, now_ns)
    return True


def lose_task(
    connection: apsw.Connection,
    *,
    task_no: int,
    attempt: int,
    reason: str,
    now_ns: int,
    last_seen_ns: int | None = None,
) -> bool:
    """The runner is gone: RUNNING -> QUEUED, at most 10 times, then as if the task had failed for good.

    A task whose optional branch has failed meanwhile becomes SKIPPED instead of QUEUED. The attempt ends at
    `last_seen_ns` (default: now), since nobody knows what the runner did after it.
    """
    task = _running(connection, task_no, attempt)
    if task is None:
        return False
    stopped_ns = None if last_seen_ns is None else max(task.started_ns, last_seen_ns)
    if task.crash_count < MAX_CRASHES:
        _requeue(connection, task, None, now_ns, outcome=_LOST, stopped_ns=stopped_ns)
    else:
        display = value(connection, "display_of_task", (task_no,))
        _fail_for_good(connection, task, f"{display}\n{reason}", now_ns, stopped_ns=stopped_ns)
    return True


def _running(connection: apsw.Connection, task_no: int, attempt: int) -> _Reported | None:
    rows = run(connection, "task_for_report", (task_no,))
    if not rows:
        return None
    task = _Reported(*rows[0])
    return task if task.state == TaskState.RUNNING.value and task.attempt == attempt else None


def _end_attempt(
    connection: apsw.Connection,
    task: _Reported,
    state: TaskState,
    display: str | None,
    now_ns: int,
    *,
    ready: bool = False,
    retries: int = 0,
    crashes: int = 0,
    stopped_ns: int | None = None,
) -> None:
    run(
        connection,
        "end_attempt",
        {
            "task_no": task.task_no,
            "attempt": task.attempt,
            "state": state.value,
            "ready": int(ready),
            "display": _clean_display(display),
            "retries": retries,
            "crashes": crashes,
            "now_ns": now_ns,
            "stopped_ns": now_ns if stopped_ns is None else stopped_ns,
        },
    )


def _requeue(
    connection: apsw.Connection,
    task: _Reported,
    display: str | None,
    now_ns: int,
    *,
    outcome: int,
    stopped_ns: int | None = None,
) -> None:
    crashes = int(outcome == _LOST)
    if _is_branch_failed(connection, task.branch_no):
        # Back in the queue it is among what is still queued in a failed branch. It is not retried; a crash counts.
        _end_attempt(connection, task, TaskState.SKIPPED, display, now_ns, crashes=crashes, stopped_ns=stopped_ns)
        _settle(connection, task, now_ns)
        return
    ready = not _is_canceled(connection, task.job_no)
    kept = {"task_no": task.task_no, "outcome": outcome, "stopped_ns": now_ns if stopped_ns is None else stopped_ns}
    run(connection, "keep_attempt", kept)
    _end_attempt(
        connection,
        task,
        TaskState.QUEUED,
        display,
        now_ns,
        ready=ready,
        retries=int(outcome == _FAILED),
        crashes=crashes,
        stopped_ns=stopped_ns,
    )


def _fail_for_good(
    connection: apsw.Connection, task: _Reported, display: str | None, now_ns: int, *, stopped_ns: int | None = None
) -> None:
    if not task.optional and task.branch_no is None:
        _end_attempt(connection, task, TaskState.FAILED, display, now_ns, stopped_ns=stopped_ns)
        # What joins the queue of a job that is canceled already does so withheld.
        if value(connection, "cancel_job", (task.job_no,)) is not None:
            run(connection, "withhold_queued", (task.job_no,))
        return
    _end_attempt(connection, task, TaskState.FAILED_OPTIONAL, display, now_ns, stopped_ns=stopped_ns)
    skipped: list[tuple[int]] = []
    if not task.optional:
        run(connection, "mark_branch_failed", (task.branch_no,))
        skipped = run(connection, "skip_queued_in_branch", (task.branch_no,))
    _settle(connection, task, now_ns)
    for (skipped_no,) in skipped:
        _, parent_no, group_no = run(connection, "task_to_settle", (skipped_no,))[0]
        _settle_below(connection, parent_no, group_no, task, now_ns)


def _replace_progress(connection: apsw.Connection, task: _Reported, progress: Sequence[ProgressIndicator]) -> None:
    if task.attempt > 1:
        run(connection, "delete_progress", (task.job_no, task.task_no))
    totals: dict[str, tuple[int, int]] = {}
    for indicator in progress:
        label = redact_text(clean_text(str(indicator.label or "")))[:_MAX_PROGRESS_LABEL_CHARS]
        total, done = totals.get(label, (0, 0))
        totals[label] = (total + _clean_count(indicator.total), done + _clean_count(indicator.done))
    if totals:
        rows = [(task.job_no, task.task_no, label, total, done) for label, (total, done) in totals.items()]
        run_many(connection, "insert_progress", rows)


def _clean_count(count: object) -> int:
    """A count of progress as the store can hold it; what is no number counts nothing."""
    try:
        return min(max(0, int(count)), _MAX_COUNT)  # type: ignore[call-overload, no-any-return]
    except (TypeError, ValueError, OverflowError):
        return 0


def _clean_display(display: object) -> str | None:
    """Text for people, as user code may set anything; None and "" leave the text that is there."""
    if display is None or display == "":
        return None
    return redact_text(text_of(display))[:MAX_DISPLAY_CHARS]


def _is_canceled(connection: apsw.Connection, job_no: int) -> bool:
    return bool(value(connection, "is_job_canceled", (job_no,)))


def _is_branch_failed(connection: apsw.Connection, branch_no: int | None) -> bool:
    return branch_no is not None and bool(value(connection, "branch_failed", (branch_no,)))


# -- settle -----------------------------------------------------------------------------------------------------


def _settle(connection: apsw.Connection, task: _Reported, now_ns: int) -> None:
    """A task that is reported on, with all its descendants, is done."""
    _settle_below(connection, task.parent_no, task.group_no, task, now_ns)


def _settle_below(
    connection: apsw.Connection, parent_no: int | None, group_no: int, reported: _Reported, now_ns: int
) -> None:
    """A task of this group, with all its descendants, is done, by the end of `reported`.

    Counts down its group and its parent, and releases what waited. Each task is settled once, so the work per task is
    constant however deep the tree is.
    """
    while True:
        # NULL where no group waits: most tasks, which then cost one page less per commit.
        waiting = value(connection, "unsettled_in_group", (group_no,))
        if waiting is not None:
            run(connection, "settle_in_group", (group_no,))
            if waiting == 1:
                _release_waiting_for(connection, group_no, reported, now_ns)
        if parent_no is None:
            return
        run(connection, "settle_child", (parent_no,))
        unsettled, parent_no, group_no = run(connection, "task_to_settle", (parent_no,))[0]
        if unsettled:
            return


def _release_waiting_for(connection: apsw.Connection, group_no: int, reported: _Reported, now_ns: int) -> None:
    for (waiting,) in run(connection, "groups_waiting_for", (group_no,)):
        if value(connection, "settle_dependency", (waiting,)) == 0:
            is_canceled = _is_canceled(connection, reported.job_no)
            released = {"group_no": waiting, "task_no": reported.task_no, "now_ns": now_ns, "is_canceled": is_canceled}
            run(connection, "release_group", released)
