"""The spans of a job as a tree: structural paths and self times, for any number of spans and any parents.

Works on columns, a level of the tree at a time, and needs no more than log2(n) steps for what hangs deep. Spans are
numbered in the order (start_ns, span_id). docs/analysis.md, "Comparing jobs", has the definitions.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy as np
    from numpy.typing import NDArray

    Ints = NDArray[np.int64]

__all__ = ["Paths", "SpanTree", "make_tree"]

_MAX_NAMES = 50  # of a path
_JOB, _CYCLE, _MORE = "job", "(cycle)", "…"
_MAX_NS = (1 << 63) - 1


class Paths:
    """Paths as numbers, from 0 on: each is the path above it and one more name. Shared by the trees of a comparison."""

    def __init__(self) -> None:
        self._numbers: dict[tuple[int, int], int] = {}
        self._steps: list[tuple[int, int]] = []
        self._name_numbers: dict[str, int] = {}
        self._names: list[str] = []

    def __len__(self) -> int:
        return len(self._steps)

    def name_numbers(self, names: Sequence[str]) -> list[int]:
        """A number for each name, the same for equal ones."""
        known = self._name_numbers
        numbers = [known.setdefault(name, len(known)) for name in names]
        self._names = list(known)
        return numbers

    def below(self, above: int, name: int) -> int:
        """The path of a name (its number) below the path `above`; -1: a root."""
        key = (above, name)
        number = self._numbers.setdefault(key, len(self._steps))
        if number == len(self._steps):
            self._steps.append(key)
        return number

    def text(self, number: int) -> str:
        """Names from the root down: "job > task/Tile > read"."""
        names = []
        while number >= 0:
            number, name = self._steps[number]
            names.append(self._names[name])
        return " > ".join(reversed(names))


@dataclass(frozen=True)
class SpanTree:
    """Columns of equal length, one item per span."""

    paths: Ints  # number of its path
    durations: Ints  # ns; -1: still open
    self_durations: Ints  # ns; 0 if it is still open
    has_failed: NDArray[np.bool_]


def make_tree(
    spans: Sequence[tuple[Any, ...]], tasks: Sequence[tuple[int, int, str]], job_name: str, paths: Paths
) -> SpanTree:
    """The tree of a job.

    Args:
        spans: Rows of spans_to_compare.
        tasks: Rows of tasks_to_compare.
        job_name: A root span of the name job/<job_name> stands for the job.
        paths: Where paths get their numbers.
    """
    import numpy as np

    columns: Any = zip(*spans, strict=True) if spans else [()] * 7
    starts, ids, parent_ids, durations, names, failed, span_tasks = columns
    start, span_id, parent_id, duration, task = (
        np.array(column, dtype=np.int64) for column in (starts, ids, parent_ids, durations, span_tasks)
    )
    parent = _parents(span_id, parent_id)
    structure = _Structure(names, parent, task, tasks, job_name, paths)
    return SpanTree(
        structure.number()[: len(spans)],
        duration,
        _self_durations(start, duration, parent),
        np.array(failed, dtype=np.bool_),
    )


def _parents(span_id: Ints, parent_id: Ints) -> Ints:
    """Number of the parent of each span, the first of its id; -1: it has none, or it is not there."""
    import numpy as np

    if len(span_id) == 0:
        return span_id
    known, first = np.unique(span_id, return_index=True)
    place = np.minimum(np.searchsorted(known, parent_id), len(known) - 1)
    return np.where((known[place] == parent_id) & (parent_id != 0), first[place], -1)


def _self_durations(start: Ints, duration: Ints, parent: Ints) -> Ints:
    """Duration minus the union of the children's intervals, clipped to the span's own."""
    import numpy as np

    is_open = duration < 0
    end = start + np.minimum(np.maximum(duration, 0), _MAX_NS - np.maximum(start, 0))
    numbers = np.arange(len(start))
    children = np.flatnonzero((parent >= 0) & (parent != numbers))
    # An open span ends where it begins here, which leaves nothing of its children. Spans come by start, so
    # the children of each parent stay in that order, clipped or not.
    children = children[np.argsort(parent[children], kind="stable")]
    above = parent[children]
    first, last = start[above], end[above]
    begins = np.clip(start[children], first, last)
    ends = np.where(is_open[children], last, np.clip(end[children], first, last))
    # Where the children before have reached; by doubling, since no number is large enough to tell parents apart.
    reached = ends.copy()
    longest = int(np.bincount(above).max()) if len(above) else 0
    step = 1
    while step < longest:
        same = above[step:] == above[:-step]
        reached[step:] = np.where(same, np.maximum(reached[step:], reached[:-step]), reached[step:])
        step *= 2
    before = begins.copy()
    same = above[1:] == above[:-1]
    before[1:] = np.where(same, np.maximum(begins[1:], reached[:-1]), begins[1:])
    found = np.where(is_open, 0, np.maximum(duration, 0))
    np.subtract.at(found, above, np.maximum(ends - before, 0))
    return found


class _Structure:
    """Spans, then tasks, then the job, then what is above everything: what hangs below what, and its name."""

    def __init__(
        self,
        names: Sequence[str],
        parent: Ints,
        task: Ints,
        tasks: Sequence[tuple[int, int, str]],
        job_name: str,
        paths: Paths,
    ) -> None:
        import numpy as np

        self._paths = paths
        spans = len(parent)
        self._job = spans + len(tasks)
        self._top = self._job + 1
        task_nos = np.array([task_no for task_no, _, _ in tasks], dtype=np.int64)
        submitters = np.array([submitter for _, submitter, _ in tasks], dtype=np.int64)
        name = np.array(
            paths.name_numbers([*names, *(f"task/{identifier}" for _, _, identifier in tasks), _JOB, ""]),
            dtype=np.int64,
        )
        above = np.concatenate((parent, _places(task_nos, submitters), [-1, self._top]))
        is_span = np.arange(len(above)) < spans
        above[is_span] = np.where(parent < 0, self._top, parent)
        of_tasks = above[spans : self._job]
        above[spans : self._job] = np.where(of_tasks < 0, self._job, of_tasks + spans)
        above[self._job] = self._top
        # The span job/<name> is the job.
        (root,) = paths.name_numbers([f"job/{job_name}"])
        name[:spans][(parent < 0) & (name[:spans] == root)] = name[self._job]
        # The spans task/<name>, one for each attempt, hang below the task that submitted theirs.
        own = _places(task_nos, task)
        is_top = (parent < 0) | (task[parent] != task)
        named = np.array([one for text, one in zip(names, name[:spans].tolist(), strict=True) if text[:5] == "task/"])
        attempts = np.flatnonzero(is_top & (own >= 0) & np.isin(name[:spans], named))
        above[attempts] = above[own[attempts] + spans]
        name[own[attempts[::-1]] + spans] = name[attempts[::-1]]  # the first attempt's is the one that stays
        self._above, self._name = above, name

    def number(self) -> Ints:
        """The number of the path of everything."""
        import numpy as np

        depth, is_reached = self._depths()
        found = np.full(len(depth), -1, dtype=np.int64)
        is_deep = is_reached & (depth > _MAX_NAMES)
        within = np.flatnonzero(is_reached & ~is_deep & (depth > 0))
        within = within[np.argsort(depth[within], kind="stable")]
        bounds = np.searchsorted(depth[within], np.arange(1, _MAX_NAMES + 2))
        for first, last in zip(bounds[:-1].tolist(), bounds[1:].tolist(), strict=True):
            level = within[first:last]
            found[level] = self._below(found[self._above[level]], self._name[level])
        if is_deep.any():
            everything = np.arange(len(depth))
            last_named = np.where(is_deep, self._above, everything)
            for _ in range(len(depth).bit_length()):
                last_named = last_named[last_named]
            (more,) = self._paths.name_numbers([_MORE])
            deep = np.flatnonzero(is_deep)
            found[deep] = self._below(found[last_named[deep]], np.full(len(deep), more, dtype=np.int64))
        lost = np.flatnonzero(~is_reached)
        if len(lost):
            cycle = self._paths.below(-1, *self._paths.name_numbers([_CYCLE]))
            found[lost] = self._below(np.full(len(lost), cycle, dtype=np.int64), self._name[lost])
        return found

    def _depths(self) -> tuple[Ints, NDArray[np.bool_]]:
        """How many names each path has, and whether a root leads there at all."""
        import numpy as np

        ancestor = self._above
        depth = np.ones(len(ancestor), dtype=np.int64)
        depth[self._top] = 0
        for _ in range(len(ancestor).bit_length()):
            if (ancestor == self._top).all():
                break
            depth = depth + depth[ancestor]
            ancestor = ancestor[ancestor]
        return depth, ancestor == self._top

    def _below(self, above: Ints, name: Ints) -> Ints:
        """Numbers of the paths of names below paths."""
        import numpy as np

        if len(name) == 0:
            return name
        size = int(name.max()) + 1
        keys, which = np.unique((above + 1) * size + name, return_inverse=True)
        numbers = [self._paths.below(key // size - 1, key % size) for key in keys.tolist()]
        return np.array(numbers, dtype=np.int64)[which]


def _places(known: Ints, wanted: Ints) -> Ints:
    """Where each wanted number is among the known ones, which ascend; -1: nowhere."""
    import numpy as np

    if len(known) == 0:
        return np.full(len(wanted), -1, dtype=np.int64)
    place = np.minimum(np.searchsorted(known, wanted), len(known) - 1)
    return np.where(known[place] == wanted, place, -1)
