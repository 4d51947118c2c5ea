"""Jobs of random tasks with dependencies, failures and lost runners, played through the engine in virtual time."""

from __future__ import annotations

import heapq
import itertools
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING

from hypothesis import strategies as st
from trace_builder import T0, TraceBuilder

from tilebox_local import ids
from tilebox_local.data import TaskIdentifier, TaskSubmissionGroup, TaskSubmissions
from tilebox_local.engine.jobs import submit_job
from tilebox_local.engine.tasks import claim_task, complete_task, fail_task, lose_task, runnable_identifiers

if TYPE_CHECKING:
    from uuid import UUID

    import apsw

NAMES = ("a", "b", "c")


@dataclass(eq=False)
class Node:
    """A task of the plan: how its attempts end, how long each runs, and what it submits when it is computed."""

    name: str
    lengths: list[int]
    outcomes: list[str]  # of all but the last attempt: "FAILED", "LOST" or "RELEASED"; the last one is COMPUTED
    groups: list[tuple[list[int], list[Node]]] = field(default_factory=list)  # (indices of groups before it, tasks)
    parent: Node | None = None
    depends_on: list[Node] = field(default_factory=list)
    number: int = 0
    caused_by: Node | None = None  # whose end made its first attempt claimable
    attempts: list[tuple[int, int, int, str, int]] = field(default_factory=list)  # ready, start, stop, outcome, runner

    def is_settled(self) -> bool:
        """Computed, with all below it."""
        return self.is_computed() and all(task.is_settled() for _, tasks in self.groups for task in tasks)

    def is_computed(self) -> bool:
        """Whether its last attempt has ended."""
        return bool(self.attempts) and self.attempts[-1][3] == "COMPUTED"

    def below(self) -> list[Node]:
        """It and all below it."""
        return [self, *(node for _, tasks in self.groups for task in tasks for node in task.below())]


@st.composite
def nodes(draw: st.DrawFn, depth: int) -> Node:
    """A task, with up to three groups of up to three subtasks each below it, `depth` levels deep."""
    outcomes = (
        draw(st.lists(st.sampled_from(["FAILED", "LOST", "RELEASED"]), max_size=2)) if draw(st.booleans()) else []
    )
    lengths = [draw(st.integers(0, 9)) for _ in range(len(outcomes) + 1)]
    node = Node(draw(st.sampled_from(NAMES)), lengths, outcomes)
    if depth and draw(st.booleans()):
        node.groups = draw(groups(depth - 1))
    return node


@st.composite
def groups(draw: st.DrawFn, depth: int) -> list[tuple[list[int], list[Node]]]:
    """Groups of tasks; each may depend on groups before it."""
    return [
        (
            sorted(draw(st.sets(st.integers(0, index - 1), max_size=2))) if index else [],
            draw(st.lists(nodes(depth), min_size=1, max_size=3)),
        )
        for index in range(draw(st.integers(1, 3)))
    ]


class Simulation:
    """One job, played to its end: `nodes` by task_no, with what happened to them."""

    DETECTION = 3  # ns until a lost runner is noticed

    def __init__(self, build: TraceBuilder, roots: list[tuple[list[int], list[Node]]], runner_count: int) -> None:
        self._store = build.store
        self._runners = [build.runner(number) and number for number in range(1, runner_count + 1)]
        self._roots = roots
        self.nodes: dict[int, Node] = {}
        self._waiting: list[Node] = []
        self._sequence = itertools.count()
        self.job_id: UUID = ids.new_id(T0)
        self._submit()
        self._play()

    def _submit(self) -> None:
        trace_id = self.job_id.int
        submissions = _submissions(self._roots)
        submit = partial(
            submit_job,
            job_id=self.job_id,
            name="simulated",
            trace_id=trace_id,
            trace_parent=f"00-{trace_id:032x}-{1:016x}-01",
            submissions=submissions,
            now_ns=T0,
        )
        self._store.transact(submit)
        self._adopt(None, self._roots, self._last_task_no())

    def _last_task_no(self) -> int:
        with self._store.read() as connection:
            return int(connection.execute("SELECT max(task_no) FROM task_records").get or 0)

    def _adopt(self, parent: Node | None, new: list[tuple[list[int], list[Node]]], last_no: int) -> None:
        flat = [node for _, tasks in new for node in tasks]
        for number, node in enumerate(flat, start=last_no - len(flat) + 1):
            node.number, node.parent = number, parent
            self.nodes[number] = node
        for depends_on, tasks in new:
            for node in tasks:
                node.depends_on = [other for index in depends_on for other in new[index][1]]
        self._waiting += flat

    def _release(self, cause: Node | None, now: int) -> None:
        """Note which tasks can be claimed now, and why."""
        for node in list(self._waiting):
            if all(other.is_settled() for other in node.depends_on):
                node.caused_by = cause
                node.attempts.append((now, -1, -1, "", 0))
                self._waiting.remove(node)

    def _play(self) -> None:
        self._release(None, 0)
        free, busy, now = list(self._runners), [], 0
        while True:
            while free:
                node, attempt = self._claim(free[0], now)
                if node is None:
                    break
                runner = free.pop(0)
                number = len(node.attempts) - 1
                node.attempts[number] = (node.attempts[number][0], now, -1, "", runner)
                heapq.heappush(busy, (now + node.lengths[number], next(self._sequence), runner, node, attempt))
            if not busy:
                return
            now, _, runner, node, attempt = heapq.heappop(busy)
            self._report(node, attempt, now)
            if len(node.attempts) > 1 and node.attempts[-2][3] == "LOST" and node.attempts[-1][1] == -1:
                now += self.DETECTION  # nobody does anything meanwhile
                busy = [(max(end, now), *rest) for end, *rest in busy]
                heapq.heapify(busy)
            free.append(runner)

    def _claim(self, runner: int, now: int) -> tuple[Node | None, int]:
        def claim(connection: apsw.Connection) -> tuple[int, int] | None:
            claimed = claim_task(
                connection,
                cluster_no=1,
                identifiers=runnable_identifiers(connection, [(name, 0, 0) for name in NAMES]),
                runner_no=runner,
                after=None,
                now_ns=T0 + now,
                lease_expires_boot_ns=0,
            )
            return None if claimed is None else (claimed.task_no, claimed.attempt)

        claimed = self._store.transact(claim)
        return (None, 0) if claimed is None else (self.nodes[claimed[0]], claimed[1])

    def _report(self, node: Node, attempt: int, now: int) -> None:
        number = len(node.attempts) - 1
        ready, started, _, _, runner = node.attempts[number]
        outcome = node.outcomes[number] if number < len(node.outcomes) else "COMPUTED"
        node.attempts[number] = (ready, started, now, outcome, runner)
        token = {"task_no": node.number, "attempt": attempt}
        if outcome == "LOST":
            later = T0 + now + self.DETECTION
            self._store.transact(partial(lose_task, **token, reason="gone", now_ns=later, last_seen_ns=T0 + now))
            node.attempts.append((now + self.DETECTION, -1, -1, "", 0))
        elif outcome != "COMPUTED":
            report = partial(
                fail_task,
                **token,
                display=None,
                was_workflow_error=outcome == "FAILED",
                progress=None,
                now_ns=T0 + now,
            )
            self._store.transact(report)
            node.attempts.append((now, -1, -1, "", 0))
        else:
            submissions = _submissions(node.groups) if node.groups else None
            report = partial(
                complete_task, **token, display=None, submissions=submissions, progress=[], now_ns=T0 + now
            )
            self._store.transact(report)
            if node.groups:
                self._adopt(node, node.groups, self._last_task_no())
            self._release(node, now)

    def runs(self) -> list[tuple[Node, int, tuple[int, int, int, str, int]]]:
        """Every attempt: its task, its number and what happened."""
        return [(node, n, attempt) for node in self.nodes.values() for n, attempt in enumerate(node.attempts, start=1)]


def _submissions(new: list[tuple[list[int], list[Node]]]) -> TaskSubmissions:
    return TaskSubmissions(
        task_groups=[
            TaskSubmissionGroup(
                dependencies_on_other_groups=depends_on,
                inputs=[b"{}"] * len(tasks),
                identifier_pointers=[NAMES.index(task.name) for task in tasks],
                cluster_slug_pointers=[0] * len(tasks),
                display_pointers=[0] * len(tasks),
                max_retries_values=[5] * len(tasks),
                optional_values=[False] * len(tasks),
            )
            for depends_on, tasks in new
        ],
        cluster_slug_lookup=["default"],
        identifier_lookup=[TaskIdentifier(name, "v0.0") for name in NAMES],
        display_lookup=["task"],
    )
