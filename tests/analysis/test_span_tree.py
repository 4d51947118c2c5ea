"""Paths and self times against slow, obvious code, for every kind of trace."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tilebox_local.analysis import span_tree
from tilebox_local.analysis.span_tree import Paths, SpanTree, make_tree

Row = tuple[int, int, int, int, str, int, int]  # as spans_to_compare gives them
Task = tuple[int, int, str]


def row(name: str, start: int, end: int | None, span_id: int, parent: int = 0, task: int = 0) -> Row:
    """A span as spans_to_compare gives it."""
    return (start, span_id, parent, -1 if end is None else end - start, name, 0, task)


def texts(spans: list[Row], tasks: list[Task] | None = None, job: str = "x") -> list[str]:
    """The path of each span."""
    paths = Paths()
    return [paths.text(number) for number in make_tree(spans, tasks or [], job, paths).paths.tolist()]


def self_times(spans: list[Row]) -> list[int]:
    """The self time of each span."""
    found: SpanTree = make_tree(spans, [], "x", Paths())
    return found.self_durations.tolist()


# -- the same, slowly --------------------------------------------------------------------------------------------------


class Slow:
    """Paths and self times of a trace by walking from each span to the root, and from each span to its children."""

    def __init__(self, spans: list[Row], tasks: list[Task], job: str) -> None:
        self.spans, self.job = spans, job
        self.tasks = {number: (submitter, name) for number, submitter, name in tasks}
        first: dict[int, int] = {}
        for place, span in enumerate(spans):
            first.setdefault(span[1], place)
        self.parents = [first.get(span[2]) if span[2] else None for span in spans]

    def is_attempt(self, place: int) -> bool:
        """Whether a span is that of an attempt of a task."""
        *_, name, _, task = self.spans[place]
        parent = self.parents[place]
        is_top = parent is None or self.spans[parent][6] != task
        return name.startswith("task/") and task in self.tasks and is_top

    def step(self, node: Any) -> tuple[str, Any]:
        """(name of a node, the node above it); None is above all roots."""
        if node == "job":
            return "job", None
        if isinstance(node, tuple):
            submitter, name = self.tasks[node[0]]
            attempts = [p for p, span in enumerate(self.spans) if span[6] == node[0] and self.is_attempt(p)]
            name = self.spans[attempts[0]][4] if attempts else f"task/{name}"
            return name, (submitter,) if submitter in self.tasks else "job"
        name, parent = self.spans[node][4], self.parents[node]
        if self.is_attempt(node):
            return name, self.step((self.spans[node][6],))[1]
        if parent is None and name == f"job/{self.job}":
            name = "job"
        return name, parent

    def path(self, place: int, limit: int) -> str:
        """Names from the root down."""
        names: list[str] = []
        seen: set[Any] = set()
        node: Any = place
        while node is not None:
            if node in seen:
                return f"(cycle) > {names[0]}"
            seen.add(node)
            name, node = self.step(node)
            names.append(name)
        names.reverse()
        return " > ".join(names if len(names) <= limit else [*names[:limit], "…"])

    def self_time(self, place: int) -> int:
        """Nanoseconds of a span that no child covers, counted one by one."""
        start, _, _, duration, *_ = self.spans[place]
        if duration < 0:
            return 0
        covered: set[int] = set()
        for child, parent in enumerate(self.parents):
            if parent == place and child != place:
                begin, _, _, length, *_ = self.spans[child]
                end = start + duration if length < 0 else begin + length
                covered |= set(range(max(begin, start), min(end, start + duration)))
        return duration - len(covered)


ROWS = st.builds(
    row,
    name=st.sampled_from(["a", "b", "task/A", "task/B", "job/x", "job"]),
    start=st.integers(0, 12),
    end=st.none() | st.integers(0, 12),
    span_id=st.integers(1, 9),
    parent=st.sampled_from([0, 1, 1, 1, 2, 2, *range(3, 12)]),
    task=st.integers(0, 4),
).map(lambda r: (*r[:3], max(-1, r[3]), *r[4:]))
# One row per (start, span_id), the key of span_records, in its order.
TRACES = st.lists(ROWS, max_size=14, unique_by=lambda r: r[:2]).map(sorted)
TASKS = st.dictionaries(st.integers(1, 3), st.tuples(st.integers(0, 4), st.sampled_from("AB"))).map(
    lambda tasks: [(number, submitter, name) for number, (submitter, name) in sorted(tasks.items())]
)


@pytest.mark.parametrize("limit", [50, 2])
@settings(max_examples=300)
@given(spans=TRACES, tasks=TASKS)
def test_trees_are_those_of_slow_code(limit: int, spans: list[Row], tasks: list[Task]) -> None:
    """Overlapping, early, late and open children, orphans, cycles, equal ids, tasks with and without spans."""
    paths = Paths()
    before, span_tree._MAX_NAMES = span_tree._MAX_NAMES, limit
    try:
        tree = make_tree(spans, tasks, "x", paths)
    finally:
        span_tree._MAX_NAMES = before
    slow = Slow(spans, tasks, "x")
    assert [paths.text(number) for number in tree.paths.tolist()] == [slow.path(p, limit) for p in range(len(spans))]
    assert tree.self_durations.tolist() == [slow.self_time(place) for place in range(len(spans))]
    assert tree.durations.tolist() == [span[3] for span in spans]


# -- paths -------------------------------------------------------------------------------------------------------------


def test_tasks_hang_below_the_task_that_submitted_them() -> None:
    """The spans of tasks lie flat below that of the job; their paths follow the tasks, in each attempt."""
    spans = [
        row("job/x", 0, 1, 1),
        row("task/Root", 1, 2, 2, parent=1, task=7),
        row("task/Root", 3, 4, 3, parent=1, task=7),
        row("task/Leaf", 5, 6, 4, parent=1, task=8),
        row("read", 5, 6, 5, parent=4, task=8),
        row("task/inner", 5, 6, 6, parent=5, task=8),
        row("retry_job", 7, 8, 7, parent=1),
    ]
    assert texts(spans, [(7, 0, "root"), (8, 7, "leaf")]) == [
        "job",
        "job > task/Root",
        "job > task/Root",
        "job > task/Root > task/Leaf",
        "job > task/Root > task/Leaf > read",
        "job > task/Root > task/Leaf > read > task/inner",
        "job > retry_job",
    ]


def test_a_task_without_spans_has_its_name() -> None:
    """What a task submitted stays below it, also if its own span is not there; nor need that of the job be."""
    assert texts([row("task/Leaf", 5, 6, 4, parent=1, task=8)], [(7, 0, "root"), (8, 7, "leaf")]) == [
        "job > task/root > task/Leaf"
    ]


def test_only_the_jobs_own_root_is_the_job() -> None:
    """A span job/<name> counts as the job if it is a root and has the name of the job, also below another trace."""
    spans = [row("job/x", 0, 9, 1, parent=99), row("job/x", 1, 2, 2, parent=1), row("job/y", 3, 4, 3)]
    assert texts(spans) == ["job", "job > job/x", "job/y"]


def test_chains_are_cut() -> None:
    """A chain of 10,000 spans has 51 paths; what hangs deeper than 50 names is one path."""
    spans = [row(f"n{i}", i, 20_000 - i, i + 1, parent=i) for i in range(10_000)]
    found = texts(spans)
    names = [f"n{i}" for i in range(50)]
    assert found[49] == " > ".join(names)
    assert set(found[50:]) == {" > ".join([*names, "…"])}
    assert self_times(spans) == [2] * 9_999 + [20_000 - 2 * 9_999]


def test_cycles_end() -> None:
    """Spans that no root reaches, in a cycle or below one, are listed by their own name."""
    spans = [
        row("a", 0, 9, 1, parent=2),
        row("b", 0, 9, 2, parent=1),
        row("c", 1, 2, 3, parent=2),
        row("d", 1, 3, 4, 4),
    ]
    assert texts(spans) == ["(cycle) > a", "(cycle) > b", "(cycle) > c", "(cycle) > d"]
    assert self_times(spans) == [0, 0, 1, 2]


# -- self time ---------------------------------------------------------------------------------------------------------


def test_self_time_by_hand() -> None:
    """Children that overlap count once, those that begin before or end after their parent for what is inside."""
    spans = [
        row("before", 0, 12, 2, parent=1),
        row("parent", 10, 110, 1),
        row("overlaps", 20, 50, 3, parent=1),
        row("overlaps", 30, 40, 4, parent=1),
        row("is covered", 42, 48, 9, parent=1),
        row("touches", 50, 60, 5, parent=1),
        row("open", 100, None, 6, parent=1),
        row("outside", 200, 300, 7, parent=1),
        row("below", 101, 102, 8, parent=6),
    ]
    assert self_times(spans) == [12, 100 - 2 - 40 - 10, 30, 10, 6, 10, 0, 100, 1]


def test_huge_times() -> None:
    """Lengths and instants at the end of 64 bits do not wrap around."""
    end = (1 << 63) - 1
    spans = [row("a", 0, end, 1), row("b", 1, end, 2, parent=1), row("c", end - 5, None, 3, parent=1)]
    assert self_times(spans) == [1, end - 1, 0]
    beyond = [(end - 10, 1, 0, 100, "a", 0, 0), (end - 5, 2, 1, 100, "b", 0, 0)]
    assert self_times(beyond) == [95, 100]


def test_nothing() -> None:
    """A job without spans has an empty tree, with tasks or without."""
    assert texts([]) == texts([], [(1, 0, "A")]) == []
