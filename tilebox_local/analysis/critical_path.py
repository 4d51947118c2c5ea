"""The chain of attempts that decided when a job ended: `client.jobs().critical_path(job)`."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from tilebox_local.analysis.records import Record, Records, from_view
from tilebox_local.analysis.subject import find_subject
from tilebox_local.catalog import run

if TYPE_CHECKING:
    from collections.abc import Iterable
    from uuid import UUID

    import apsw

    from tilebox_local.storage.store import Store

__all__ = ["CriticalPath", "CriticalStep", "Saving", "critical_steps", "find_critical_path", "savings_of"]

_MAX_SAVINGS = 10
_MAX_WORK = 1_000_000  # tasks that are worked through to find out what is saved


@dataclass(frozen=True)
class CriticalStep(Record):
    """An attempt on the critical path. The three lengths of all steps add up to the time from submission to the end."""

    step: int  #: 1: the first
    task_id: str
    name: str
    attempt: int
    outcome: str  #: as in the view `attempts`
    runner: str | None
    delay_duration_ns: int  #: from the end of the step before until the task could be claimed
    queue_wait_duration_ns: int  #: from there until it was claimed
    run_duration_ns: int | None  #: from there until it stopped; None: it runs
    share: float | None  #: of the three in the whole
    started_at_ns: int
    stopped_at_ns: int | None


@dataclass(frozen=True)
class Saving(Record):
    """How much earlier the job would have ended if the attempts of one task had taken no time.

    Assumes that delays and waits stay as they were: with more runners idle, the job would end earlier still.
    """

    name: str
    run_duration_ns: int  #: on the critical path
    saved_duration_ns: int  #: less, if another path is then the longest


class CriticalPath(Records[CriticalStep]):
    """Steps in the order of time. `savings`: what a task being free would be worth, the largest first."""

    def __init__(self, steps: Iterable[CriticalStep], savings: Iterable[Saving]) -> None:
        super().__init__(CriticalStep, steps)
        self.savings = Records(Saving, savings)

    def __reduce__(self) -> Any:
        return CriticalPath, (list(self), list(self.savings))

    @property
    def whole_duration_ns(self) -> int:
        """From the submission of the job to the end of the last step, or its start, if it runs."""
        return sum(s.delay_duration_ns + s.queue_wait_duration_ns + (s.run_duration_ns or 0) for s in self)


def find_critical_path(store: Store, job_id: UUID) -> CriticalPath:
    """The steps, and the savings of at most ten tasks with the longest run time on the path. Raises NotFoundError."""
    with store.snapshot() as connection:
        subject = find_subject(connection, job_id)
        steps = critical_steps(connection, subject.job_no)
        return CriticalPath(steps, savings_of(connection, subject.job_no, steps))


def critical_steps(connection: apsw.Connection, job_no: int) -> list[CriticalStep]:
    """The steps of a job's critical path in their order."""
    return [from_view(CriticalStep, row) for row in run(connection, "critical_path", (job_no,))]


def savings_of(connection: apsw.Connection, job_no: int, steps: Iterable[CriticalStep]) -> list[Saving]:
    """What each task on the path being free would be worth, descending."""
    on_path: dict[str, int] = defaultdict(int)
    for step in steps:
        on_path[step.name] += step.run_duration_ns or 0
    plan = _Plan(run(connection, "ended_tasks", (job_no,)), run(connection, "group_dependencies_of_job", (job_no,)))
    names = sorted(on_path, key=lambda name: (-on_path[name], name))
    names = names[: max(1, min(_MAX_SAVINGS, _MAX_WORK // max(1, plan.size)))]
    whole_ns = plan.length_ns()
    savings = [Saving(name, on_path[name], whole_ns - plan.length_ns(free=name)) for name in names]
    return sorted(savings, key=lambda one: (-one.saved_duration_ns, one.name))


class _Plan:
    """The ended tasks of a job, and which have to end before which. Works out when the last one would end."""

    def __init__(self, tasks: list[tuple[Any, ...]], dependencies: list[tuple[int, int]]) -> None:
        self._tasks = {
            task_no: (parent_no, name, length, run_ns) for task_no, parent_no, _, name, length, run_ns in tasks
        }
        self._group_of = {task_no: group_no for task_no, _, group_no, *_ in tasks}
        self._members: dict[int, list[int]] = defaultdict(list)
        self._groups_below: dict[int | None, list[int]] = defaultdict(list)
        self._child_counts: dict[int, int] = defaultdict(int)
        for task_no, parent_no, group_no, *_ in tasks:
            parent = parent_no if parent_no in self._tasks else None
            if group_no not in self._members:
                self._groups_below[parent].append(group_no)
            self._members[group_no].append(task_no)
            if parent is not None:
                self._child_counts[parent] += 1
        self._waiting_for: dict[int, list[int]] = defaultdict(list)
        self._dependency_counts: dict[int, int] = defaultdict(int)
        for group_no, depends_on_no in dependencies:
            if group_no in self._members and depends_on_no in self._members:
                self._waiting_for[depends_on_no].append(group_no)
                self._dependency_counts[group_no] += 1

    @property
    def size(self) -> int:
        """Number of tasks."""
        return len(self._tasks)

    def length_ns(self, *, free: str | None = None) -> int:
        """From the submission to the end of the last task, if the tasks named `free` took no time. Linear."""
        children = dict(self._child_counts)
        unsettled = {group_no: len(members) for group_no, members in self._members.items()}
        blocked = dict(self._dependency_counts)
        settled_ns: dict[int, int] = defaultdict(int)  # of groups and tasks: when all that they wait for has ended
        group_ready_ns: dict[int, int] = defaultdict(int)
        has_begun: set[int] = set()  # groups whose parent has ended
        last_ns = 0
        startable: list[int] = []

        def begin(parent: int | None, now_ns: int) -> None:
            for group_no in self._groups_below[parent]:
                has_begun.add(group_no)
                group_ready_ns[group_no] = max(group_ready_ns[group_no], now_ns)
                if not blocked.get(group_no):
                    startable.append(group_no)

        def settle(task_no: int | None, now_ns: int) -> None:
            while task_no is not None:
                group_no = self._group_of[task_no]
                settled_ns[group_no] = max(settled_ns[group_no], now_ns)
                unsettled[group_no] -= 1
                if not unsettled[group_no]:
                    for waiting in self._waiting_for[group_no]:
                        group_ready_ns[waiting] = max(group_ready_ns[waiting], settled_ns[group_no])
                        blocked[waiting] -= 1
                        if not blocked[waiting] and waiting in has_begun:
                            startable.append(waiting)
                parent = self._tasks[task_no][0]
                if parent not in self._tasks:
                    return
                task_ns[parent] = now_ns = max(task_ns[parent], now_ns)
                children[parent] -= 1
                if children[parent]:
                    return
                task_no = parent

        task_ns: dict[int, int] = defaultdict(int)
        begin(None, 0)
        while startable:
            group_no = startable.pop()
            for task_no in self._members[group_no]:
                _, name, length, run_ns = self._tasks[task_no]
                end_ns = group_ready_ns[group_no] + max(0, length - (run_ns if name == free else 0))
                last_ns = max(last_ns, end_ns)
                task_ns[task_no] = end_ns
                if task_no in children:
                    begin(task_no, end_ns)
                else:
                    settle(task_no, end_ns)
        return last_ns
