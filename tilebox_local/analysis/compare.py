"""Comparing two jobs: what changed, by structural path, and how much of the difference each path makes up.

docs/analysis.md, "Comparing jobs", has the definitions.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import orjson

from tilebox_local.analysis.records import Record, Records
from tilebox_local.analysis.span_tree import Paths, SpanTree, make_tree
from tilebox_local.analysis.statistics import holm, mann_whitney_by_group
from tilebox_local.analysis.words import counted, duration_in_words, percent
from tilebox_local.catalog import run
from tilebox_local.errors import NotFoundError

if TYPE_CHECKING:
    from uuid import UUID

    import apsw
    import numpy as np
    from numpy.typing import NDArray

    from tilebox_local.storage.store import Store

__all__ = ["JobComparison", "PathComparison", "compare_jobs"]

_ALPHA = 0.01  # of a false alarm among all paths
_MIN_SPANS = 5  # that ended, in both jobs, for a test
_MIN_EFFECT = 1.1  # ratio of medians, or its inverse
_MIN_SHOWN = 0.0005  # contribution that a description names
_MIN_EFFECT_UNTESTED, _MIN_CHANGE_UNTESTED_NS = 1.25, 1_000_000  # of totals


@dataclass(frozen=True, kw_only=True)
class PathComparison(Record):
    """The spans of one structural path in two jobs, a and b. Differences are b minus a.

    Attributes:
        path: Names from the root down, joined by " > ".
        verdict: "added", "missing", "slower", "faster" or "same".
        is_certain: False where there are too few spans for a test.
        p: That a path has changed by chance, corrected for all that are tested; None: not tested.
        a_count: Spans, `a_open` of which have not ended and `a_failed` of which have the status ERROR.
        a_total_duration_ns: Sum of the durations; `a_self_duration_ns` of what is not covered by children.
        a_median_duration_ns: None if no span has ended.
        contribution: Share of the difference of all self times; None if that is 0. Sums to 1.
        description: The verdict in words.
    """

    path: str
    verdict: str
    is_certain: bool
    p: float | None
    a_count: int
    b_count: int
    a_open: int
    b_open: int
    a_failed: int
    b_failed: int
    a_total_duration_ns: int
    b_total_duration_ns: int
    difference_duration_ns: int
    a_self_duration_ns: int
    b_self_duration_ns: int
    self_difference_duration_ns: int
    a_median_duration_ns: int | None
    b_median_duration_ns: int | None
    contribution: float | None
    description: str

    @property
    def has_changed(self) -> bool:
        """Whether its spans are slower or faster, or there are more or fewer of them."""
        return self.verdict != "same" or self.a_count != self.b_count


@dataclass(frozen=True, kw_only=True)
class JobComparison(Record):
    """Two jobs, a and b. Differences are b minus a; None where one has no value.

    Attributes:
        a_queue_wait_duration_ns: Sum over all attempts that have started.
        a_self_duration_ns: Sum over all spans: the time that `contribution` of the paths divides up.
        a_failed_tasks: Also optional ones. `a_failed_spans` have the status ERROR.
        description: What changed, in words.
        paths: By absolute difference of self time, largest first, then by path.
    """

    a_job_id: str
    b_job_id: str
    a_name: str
    b_name: str
    a_state: str
    b_state: str
    a_elapsed_duration_ns: int | None
    b_elapsed_duration_ns: int | None
    elapsed_difference_duration_ns: int | None
    a_compute_duration_ns: int
    b_compute_duration_ns: int
    compute_difference_duration_ns: int
    a_queue_wait_duration_ns: int
    b_queue_wait_duration_ns: int
    queue_wait_difference_duration_ns: int
    a_self_duration_ns: int
    b_self_duration_ns: int
    self_difference_duration_ns: int
    a_tasks: int
    b_tasks: int
    a_failed_tasks: int
    b_failed_tasks: int
    a_spans: int
    b_spans: int
    a_failed_spans: int
    b_failed_spans: int
    description: str
    paths: Records[PathComparison]


@dataclass(frozen=True)
class _Job:
    number: int
    job_id: str
    name: str
    state: str
    elapsed_ns: int | None
    compute_ns: int
    tasks: int
    failed: int
    trace_no: int | None


@dataclass(frozen=True)
class _Side:
    """What one job has, by path."""

    counts: list[int]
    open_counts: list[int]
    failed: list[int]
    totals: list[int]
    self_totals: list[int]
    medians: list[int | None]


def compare_jobs(store: Store, a_id: UUID, b_id: UUID) -> JobComparison:
    """What changed from job a to job b. Raises NotFoundError."""
    paths = Paths()
    with store.snapshot() as connection:
        a, b = _find(connection, a_id), _find(connection, b_id)
        waits = dict(_waits(connection, [a.number, b.number]))
        a_tree = _read_tree(connection, a, paths)
        b_tree = a_tree if a.number == b.number else _read_tree(connection, b, paths)
    a_side, b_side = _side(a_tree, len(paths)), _side(b_tree, len(paths))
    compared = _compare_paths(paths, a_side, b_side, _tested(a_tree, b_tree, a_side, b_side))
    a_wait, b_wait = waits.get(a.number, 0), waits.get(b.number, 0)
    a_self, b_self = sum(a_side.self_totals), sum(b_side.self_totals)
    has_elapsed = a.elapsed_ns is not None and b.elapsed_ns is not None
    return JobComparison(
        a_job_id=a.job_id,
        b_job_id=b.job_id,
        a_name=a.name,
        b_name=b.name,
        a_state=a.state,
        b_state=b.state,
        a_elapsed_duration_ns=a.elapsed_ns,
        b_elapsed_duration_ns=b.elapsed_ns,
        elapsed_difference_duration_ns=(b.elapsed_ns or 0) - (a.elapsed_ns or 0) if has_elapsed else None,
        a_compute_duration_ns=a.compute_ns,
        b_compute_duration_ns=b.compute_ns,
        compute_difference_duration_ns=b.compute_ns - a.compute_ns,
        a_queue_wait_duration_ns=a_wait,
        b_queue_wait_duration_ns=b_wait,
        queue_wait_difference_duration_ns=b_wait - a_wait,
        a_self_duration_ns=a_self,
        b_self_duration_ns=b_self,
        self_difference_duration_ns=b_self - a_self,
        a_tasks=a.tasks,
        b_tasks=b.tasks,
        a_failed_tasks=a.failed,
        b_failed_tasks=b.failed,
        a_spans=sum(a_side.counts),
        b_spans=sum(b_side.counts),
        a_failed_spans=sum(a_side.failed),
        b_failed_spans=sum(b_side.failed),
        description=_describe_jobs(a, b, compared),
        paths=compared,
    )


def _find(connection: apsw.Connection, job_id: UUID) -> _Job:
    rows = run(connection, "job_to_compare", (job_id.bytes,))
    if not rows:
        raise NotFoundError("job", job_id, hint="List the jobs of this store with client.jobs().query().")
    return _Job(*rows[0])


def _waits(connection: apsw.Connection, job_nos: list[int]) -> list[tuple[int, int]]:
    rows = run(connection, "waits_of_jobs", {"jobs": orjson.dumps(sorted(set(job_nos))).decode()})
    return [(job_no, wait_ns) for job_no, wait_ns, _ in rows]


def _read_tree(connection: apsw.Connection, job: _Job, paths: Paths) -> SpanTree:
    spans = run(connection, "spans_to_compare", (job.trace_no,))
    tasks = run(connection, "tasks_to_compare", (job.number,))
    return make_tree(spans, tasks, job.name, paths)


def _side(tree: SpanTree, count: int) -> _Side:
    import numpy as np

    has_ended = tree.durations >= 0
    ended_paths, durations = tree.paths[has_ended], tree.durations[has_ended]
    order = np.lexsort((durations, ended_paths))
    ended_counts = np.bincount(ended_paths, minlength=count)
    ends = np.cumsum(ended_counts)
    ordered = durations[order].tolist()
    medians: list[int | None] = [
        (ordered[end - (n + 2) // 2] + ordered[end - (n + 1) // 2]) // 2 if n else None
        for n, end in zip(ended_counts.tolist(), ends.tolist(), strict=True)
    ]
    return _Side(
        counts=np.bincount(tree.paths, minlength=count).tolist(),
        open_counts=np.bincount(tree.paths[~has_ended], minlength=count).tolist(),
        failed=np.bincount(tree.paths[tree.has_failed], minlength=count).tolist(),
        totals=_sums(ended_paths, durations, count),
        self_totals=_sums(tree.paths, tree.self_durations, count),
        medians=medians,
    )


def _sums(groups: NDArray[np.int64], values: NDArray[np.int64], count: int) -> list[int]:
    """Exact sums by group: in two halves, as the sum of many lengths of time may not fit into 64 bits."""
    import numpy as np

    high, low = np.zeros(count, dtype=np.int64), np.zeros(count, dtype=np.int64)
    np.add.at(high, groups, values >> 32)
    np.add.at(low, groups, values & 0xFFFFFFFF)
    return [(one << 32) + other for one, other in zip(high.tolist(), low.tolist(), strict=True)]


def _tested(a_tree: SpanTree, b_tree: SpanTree, a: _Side, b: _Side) -> dict[int, float]:
    """The corrected p of each path that has enough spans in both jobs."""
    import numpy as np

    sides = ((a.counts, a.open_counts), (b.counts, b.open_counts))
    enough = [np.array(counts) - np.array(open_counts) >= _MIN_SPANS for counts, open_counts in sides]
    is_tested = enough[0] & enough[1]
    paths = np.concatenate((a_tree.paths, b_tree.paths))
    durations = np.concatenate((a_tree.durations, b_tree.durations))
    is_a = np.arange(len(paths)) < len(a_tree.paths)
    used = np.flatnonzero((durations >= 0) & is_tested[paths]) if len(paths) else paths
    p = mann_whitney_by_group(paths[used], is_a[used], durations[used], len(is_tested))
    numbers = np.flatnonzero(is_tested).tolist()
    return dict(zip(numbers, holm(p[numbers].tolist()), strict=True))


def _compare_paths(paths: Paths, a: _Side, b: _Side, tested: dict[int, float]) -> Records[PathComparison]:
    whole = sum(b.self_totals) - sum(a.self_totals)
    found = []
    for number in range(len(paths)):
        if a.counts[number] == b.counts[number] == 0:
            continue  # a task without spans, or what others hang below
        p = tested.get(number)
        verdict = _verdict(a, b, number, p)
        self_difference = b.self_totals[number] - a.self_totals[number]
        figures: dict[str, Any] = {
            "path": paths.text(number),
            "verdict": verdict,
            "is_certain": p is not None or verdict in ("added", "missing"),
            "a_count": a.counts[number],
            "b_count": b.counts[number],
            "difference_duration_ns": b.totals[number] - a.totals[number],
            "a_total_duration_ns": a.totals[number],
            "b_total_duration_ns": b.totals[number],
            "a_median_duration_ns": a.medians[number],
            "b_median_duration_ns": b.medians[number],
            "contribution": self_difference / whole if whole else None,
        }
        found.append(
            PathComparison(
                **figures,
                p=p,
                a_open=a.open_counts[number],
                b_open=b.open_counts[number],
                a_failed=a.failed[number],
                b_failed=b.failed[number],
                a_self_duration_ns=a.self_totals[number],
                b_self_duration_ns=b.self_totals[number],
                self_difference_duration_ns=self_difference,
                description=_describe(**figures),
            )
        )
    found.sort(key=lambda one: (-abs(one.self_difference_duration_ns), one.path))
    return Records(PathComparison, found)


def _verdict(a: _Side, b: _Side, number: int, p: float | None) -> str:
    if a.counts[number] == 0 or b.counts[number] == 0:
        return "missing" if a.counts[number] else "added"
    before, after = a.medians[number], b.medians[number]
    if before is None or after is None:
        return "same"  # none of them has ended: nothing to compare yet
    if p is not None:
        is_changed = p <= _ALPHA and max(before, after) >= _MIN_EFFECT * min(before, after)
    else:
        before, after = a.totals[number], b.totals[number]
        is_changed = max(before, after) > _MIN_EFFECT_UNTESTED * min(before, after)
        is_changed = is_changed and abs(after - before) > _MIN_CHANGE_UNTESTED_NS
    if not is_changed:
        return "same"
    return "slower" if after > before else "faster"


def _describe(
    *,
    path: str,
    verdict: str,
    is_certain: bool,
    a_count: int,
    b_count: int,
    difference_duration_ns: int,
    a_total_duration_ns: int,
    b_total_duration_ns: int,
    a_median_duration_ns: int | None,
    b_median_duration_ns: int | None,
    contribution: float | None,
) -> str:
    if verdict in ("added", "missing"):
        where = "b" if verdict == "added" else "a"
        total = duration_in_words(a_total_duration_ns + b_total_duration_ns)
        parts = [f"{path}: only in {where}, {total} in {counted(a_count + b_count, 'span')}"]
    else:
        change = _change(difference_duration_ns, a_total_duration_ns)
        length = duration_in_words(abs(difference_duration_ns))
        is_longer = difference_duration_ns > 0
        if verdict == "same":
            parts = [f"{path}: about as long per span, {length} {'more' if is_longer else 'less'} in total{change}"]
            if difference_duration_ns == 0:
                parts = [f"{path}: the same in total"]
        elif is_longer == (verdict == "slower") and difference_duration_ns:
            parts = [f"{path}: {length} {verdict} in total{change}"]
        else:
            medians = [duration_in_words(ns or 0) for ns in (b_median_duration_ns, a_median_duration_ns)]
            parts = [f"{path}: {verdict}, with a median of {medians[0]} instead of {medians[1]}"]
            parts += [f"but {length} {'more' if is_longer else 'less'} in total{change}"]
        if a_count != b_count:
            parts.append(f"{counted(b_count, 'span')} instead of {a_count:,}")
        if verdict != "same" and not is_certain:
            parts.append("too few spans to be certain")
    if contribution is not None and abs(contribution) >= _MIN_SHOWN:
        parts.append(f"{percent(contribution)} of the difference")
    return ", ".join(parts)


def _change(difference: int, before: int) -> str:
    """A difference in percent of what was before: " (+80 %)"."""
    if before == 0:
        return ""
    return f" ({'+' if difference > 0 else ''}{percent(difference / before)})"


def _describe_jobs(a: _Job, b: _Job, paths: Records[PathComparison]) -> str:
    if a.elapsed_ns is None or b.elapsed_ns is None:
        unfinished = " and ".join(which for which, job in (("a", a), ("b", b)) if job.elapsed_ns is None)
        first = f"no elapsed time of {unfinished} yet"
    elif a.elapsed_ns == b.elapsed_ns:
        first = f"both took {duration_in_words(a.elapsed_ns)}"
    else:
        difference = b.elapsed_ns - a.elapsed_ns
        length = duration_in_words(abs(difference))
        first = f"b took {length} {'longer' if difference > 0 else 'less'} than a{_change(difference, a.elapsed_ns)}"
    changed = [path for path in paths if path.has_changed and path.self_difference_duration_ns]
    return f"{first}; {changed[0].description}" if changed else first
