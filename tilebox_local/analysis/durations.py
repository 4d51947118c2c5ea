"""How long spans and tasks take: `client.jobs().durations(job)`."""

from __future__ import annotations

from bisect import bisect_right
from collections import Counter, defaultdict
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

import orjson

from tilebox_local.analysis.cache import remembered
from tilebox_local.analysis.parallel import ask_all
from tilebox_local.analysis.records import Record, Records, from_view
from tilebox_local.analysis.subject import find_subject
from tilebox_local.catalog import run

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from uuid import UUID

    import apsw

    from tilebox_local.analysis.subject import Subject
    from tilebox_local.storage.store import Store

__all__ = ["DurationStats", "SpanTotals", "find_durations", "span_totals"]

_Percentiles = tuple[int | None, int | None, int | None]
_NO_PERCENTILES: _Percentiles = (None, None, None)


@dataclass(frozen=True)
class DurationStats(Record):
    """How long the spans of one name, or the attempts of one task, took. Lengths are None if none has ended."""

    kind: str  #: "span" or "task"
    name: str
    version: str | None  #: of the task, "v1.0"; None for spans
    count: int  #: those that have ended
    open: int  #: those that have not; they count nowhere else
    failed: int  #: with an error; of tasks, lost attempts too
    total_duration_ns: int
    self_duration_ns: int  #: total without the time in which at least one child was open; of tasks, the total
    mean_duration_ns: int | None
    p50_duration_ns: int | None  #: nearest rank: half of them took at most this long
    p95_duration_ns: int | None
    p99_duration_ns: int | None
    max_duration_ns: int | None
    share: (
        float | None
    )  #: self time in the self time of all spans, or run time in that of all attempts; None: that is 0


class SpanTotals(NamedTuple):
    """Spans of one name in a trace; lengths of time in ns."""

    span_count: int
    ended_count: int
    failed_count: int
    total_ns: int
    self_ns: int
    max_ns: int | None


def span_totals(store: Store, connection: apsw.Connection, subject: Subject) -> Mapping[str, SpanTotals]:
    """Counts, durations and self time of the spans of a job, by name, as `connection` sees them."""
    return remembered(
        store, connection, subject, "span_totals", lambda: _span_totals(store, connection, subject.trace_no)
    )


def _span_totals(store: Store, connection: apsw.Connection, trace_no: int) -> dict[str, SpanTotals]:
    even, odd = ({"trace_no": trace_no, "half": half} for half in (0, 1))
    *covers, even_counts, odd_counts = ask_all(
        store,
        connection,
        [
            partial(_covered, spans=even),
            partial(_covered, spans=odd),
            partial(_counts, spans=even),
            partial(_counts, spans=odd),
        ],
    )
    totals = {}
    for name in even_counts | odd_counts:
        counts = [half[name] for half in (even_counts, odd_counts) if name in half]
        spans, ended, failed, total_ns = (int(sum(count[column] for count in counts)) for column in range(4))
        max_ns = max((count[4] for count in counts if count[4] is not None), default=None)
        covered_ns = int(sum(cover.get(name, 0) for cover in covers))
        totals[name] = SpanTotals(spans, ended, failed, total_ns, max(0, total_ns - covered_ns), max_ns)
    return totals


def _counts(connection: apsw.Connection, spans: dict[str, int]) -> dict[str, Any]:
    """The row of span_counts of each name."""
    return {name: counts for name, *counts in run(connection, "span_counts", spans)}


def _covered(connection: apsw.Connection, spans: dict[str, int]) -> dict[str, float]:
    """How long at least one child was open, in all spans of each name together."""
    covered: dict[str, float] = {}
    others: list[tuple[str, list[int]]] = []
    for name, covered_ns, rest in run(connection, "span_covers", spans):
        covered[name] = covered_ns
        others += ((name, key) for key in orjson.loads(rest))
    if others:
        counts = Counter(span_id for _, (_, span_id, _) in others)
        alone = [key for _, key in others if counts[key[1]] == 1]
        parents = {"trace_no": spans["trace_no"], "spans": orjson.dumps(alone).decode()}
        for name, covered_ns in run(connection, "span_covers_by_piece", parents):
            covered[name] += covered_ns
        shared = [one for one in others if counts[one[1][1]] > 1]
        for name, covered_ns in _covered_with_shared_ids(connection, spans["trace_no"], shared):
            covered[name] += covered_ns
    return covered


def _covered_with_shared_ids(
    connection: apsw.Connection, trace_no: int, shared: list[tuple[str, list[int]]]
) -> Iterator[tuple[str, int]]:
    """The same for spans whose id others have, too, so that SQL would go through the children for each of them."""
    span_ids = sorted({span_id for _, (_, span_id, _) in shared})
    children = run(connection, "children_of_spans", {"trace_no": trace_no, "ids": orjson.dumps(span_ids).decode()})
    unions: dict[int, _Union] = defaultdict(_Union)
    for parent_id, start_ns, end_ns in children:
        unions[parent_id].add(start_ns, end_ns)
    for name, (start_ns, span_id, duration_ns) in shared:
        yield name, unions[span_id].length_ns(start_ns, start_ns + duration_ns)


class _Union:
    """The union of intervals, which are added by their start."""

    def __init__(self) -> None:
        self._starts: list[int] = []
        self._ends: list[int] = []
        self._lengths = [0]  # of all pieces before

    def add(self, start_ns: int, end_ns: int) -> None:
        reached_ns = self._ends[-1] if self._ends else start_ns
        if end_ns > max(start_ns, reached_ns):
            begin_ns = max(start_ns, reached_ns)
            self._starts.append(begin_ns)
            self._ends.append(end_ns)
            self._lengths.append(self._lengths[-1] + end_ns - begin_ns)

    def length_ns(self, start_ns: int, end_ns: int) -> int:
        """How much of an interval is covered."""
        return max(0, self._until(end_ns) - self._until(start_ns))

    def _until(self, time_ns: int) -> int:
        piece = bisect_right(self._starts, time_ns)
        return self._lengths[piece] - max(0, self._ends[piece - 1] - time_ns) if piece else 0


def find_durations(store: Store, job_id: UUID) -> Records[DurationStats]:
    """Spans by name, then tasks, each descending by self time. Raises NotFoundError."""
    with store.snapshot() as connection:
        subject = find_subject(connection, job_id)
        found = remembered(store, connection, subject, "durations", lambda: _durations(store, connection, subject))
    return Records(DurationStats, found)


def _durations(store: Store, connection: apsw.Connection, subject: Subject) -> list[DurationStats]:
    totals = span_totals(store, connection, subject)
    percentiles: dict[str, _Percentiles] = {
        name: (p50, p95, p99)
        for name, p50, p95, p99 in run(connection, "span_percentiles", {"trace_no": subject.trace_no})
    }
    tasks = run(connection, "task_durations", {"job_no": subject.job_no})
    whole_ns = sum(one.self_ns for one in totals.values())
    spans = [
        DurationStats(
            "span",
            name,
            None,
            one.ended_count,
            one.span_count - one.ended_count,
            one.failed_count,
            one.total_ns,
            one.self_ns,
            round(one.total_ns / one.ended_count) if one.ended_count else None,
            *percentiles.get(name, _NO_PERCENTILES),
            one.max_ns,
            one.self_ns / whole_ns if whole_ns else None,
        )
        for name, one in totals.items()
    ]
    found = [*spans, *(from_view(DurationStats, row) for row in tasks)]
    found.sort(key=lambda one: (one.kind, -one.self_duration_ns, one.name, one.version or ""))
    return found
