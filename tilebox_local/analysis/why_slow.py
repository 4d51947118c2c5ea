"""What the slow spans of a name have in common: `client.jobs().why_slow(job)`.

The statements read columns; what is counted is counted with numpy, since grouping a million attribute values takes
SQLite twice as long as all of it may.
"""

from __future__ import annotations

import re
from bisect import bisect_right
from collections import defaultdict
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from operator import itemgetter
from typing import TYPE_CHECKING, Any, NamedTuple

import orjson

from tilebox_local.analysis.durations import span_totals
from tilebox_local.analysis.records import Record, Records
from tilebox_local.analysis.statistics import holm, midranks, of_rank_sums
from tilebox_local.analysis.subject import find_subject
from tilebox_local.analysis.words import counted, duration_in_words
from tilebox_local.catalog import run, value
from tilebox_local.errors import ArgumentError, NotFoundError
from tilebox_local.storage.attributes import decode_attributes

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence
    from uuid import UUID

    import apsw
    import numpy as np
    from numpy.typing import NDArray

    from tilebox_local.analysis.subject import Subject
    from tilebox_local.storage.store import Store

__all__ = ["Explanation", "Explanations", "explain_slow_spans"]

LEAST_SPANS = 20  # of a name that is chosen by itself
_ALPHA = 0.01
_LEAST_EFFECT = 0.33  # of Cliff's delta; "medium" begins there (Romano et al. 2006)
_LEAST_SUPPORT = 5
_LEAST_OUTLIERS = 5
_MAX_TEXT = 200  # characters of a value that is a candidate
_MAX_EXPLANATIONS = 100
_CHUNK = 2000  # objects that are there at a time
_KINDS = ("attribute", "input", "runner", "parent", "attempt", "concurrency", "start")
_OPPOSITES = {"=": "!=", ">=": "<"}
# Text that is shown without quotes: what could not be taken for a number, or for another value.
_PLAIN_TEXT = re.compile(r"(?!(?:true|false|null)$)(?![-+.\d]+(?:[eE][-+\d]*)?$)[\w./:+-]+")


@dataclass(frozen=True)
class Explanation(Record):
    """A condition that separates slow spans from the rest, with how well it does."""

    condition: str  #: "band = B08"; of inputs "input.band = B08"
    same_spans: tuple[str, ...]  #: other conditions that hold for exactly the same spans
    kind: str  #: attribute, input, runner, parent, attempt, concurrency or start
    key: str
    operator: str  #: =, !=, >= or <
    value: Any  #: of starts: ns after the submission of the job
    spans: int  #: for which it holds
    slow_spans: int  #: slow ones among these
    precision: float  #: slow_spans / spans
    recall: float  #: slow / all slow spans
    effect: float  #: Cliff's delta of the durations with it against those without: 1 if each is longer
    with_duration_ns: int  #: median of the durations with it
    without_duration_ns: int  #: and without it
    p: float  #: of an effect like this by chance, corrected for the number of candidates
    reason: str  #: for people


class Explanations(Records[Explanation]):
    """Explanations, largest effect first, and what they are about.

    Args:
        items: The explanations.
        name: Of the spans; "" if none was asked for, and none has enough spans.
        threshold_ns: Longer spans count as slow.
        span_count: Ended spans of the name.
        slow_count: Slow ones.
    """

    def __init__(
        self, items: Iterable[Explanation], name: str, threshold_ns: int, span_count: int, slow_count: int
    ) -> None:
        super().__init__(Explanation, items)
        self.name = name
        self.threshold_ns = threshold_ns
        self.span_count = span_count
        self.slow_count = slow_count

    def __str__(self) -> str:
        if not self.name:
            return (
                f"No name of the job has {LEAST_SPANS} ended spans, so that slow ones could be compared with the rest."
            )
        head = (
            f"{self.name}: {self.slow_count} of {counted(self.span_count, 'span')} took longer than "
            f"{duration_in_words(self.threshold_ns)}"
        )
        return "\n  ".join([f"{head}:", *(one.reason for one in self)]) if self else f"{head}; nothing stands out."

    def __reduce__(self) -> Any:
        return Explanations, (list(self), self.name, self.threshold_ns, self.span_count, self.slow_count)


class _Column(NamedTuple):
    """The values of one key, and of which spans, by position."""

    kind: str
    key: str
    rows: NDArray[np.int64]
    values: Sequence[Any]
    is_cut_only: bool = False  # equal values mean nothing


class _Test(NamedTuple):
    """One candidate: the spans whose value is equal to one, or beyond a cut."""

    column: _Column
    operator: str
    value: Any
    members: Callable[[], NDArray[np.int64]]  # positions of the spans for which it holds
    size: int
    slow: int
    rank_sum: float
    can_turn: bool  # whether the rest of the spans is a candidate, too


class _Finding(NamedTuple):
    test: _Test
    is_turned: bool
    effect: float
    p: float

    @property
    def operator(self) -> str:
        return _OPPOSITES[self.test.operator] if self.is_turned else self.test.operator


class _Json(NamedTuple):
    """A value that is neither a number nor text, as JSON."""

    text: str


_LONG = _Json("")


class _Spans:
    """What is known of each span, in the same order."""

    def __init__(self, durations: NDArray[np.int64], threshold_ns: int) -> None:
        import numpy as np

        self.number = len(durations)
        self.ranks, self.tied = midranks(durations)
        self.is_slow = (durations > threshold_ns).astype(np.float64)
        self.slow_count = int(self.is_slow.sum())
        self._order = np.argsort(durations)
        self._ordered = durations[self._order]

    def median_ns(self, chosen: NDArray[np.bool_]) -> int:
        """Median of the durations of some spans, at least one."""
        lengths = self._ordered[chosen[self._order]]
        half = len(lengths) // 2
        return int(lengths[half]) if len(lengths) % 2 else (int(lengths[half - 1]) + int(lengths[half])) // 2


def explain_slow_spans(store: Store, job_id: UUID, name: str | None, threshold: timedelta | None) -> Explanations:
    """What separates the slow spans of a name from the rest. Raises NotFoundError, ArgumentError."""
    import numpy as np

    threshold_ns = _threshold_ns(threshold)
    with store.snapshot() as connection:
        subject = find_subject(connection, job_id)
        name = _slowest_name(store, connection, subject) if name is None else _checked_name(connection, subject, name)
        if name is None:
            return Explanations([], "", 0, 0, 0)
        rows = run(connection, "spans_of_name", {"trace_no": subject.trace_no, "name": name})
        durations = np.array([row[1] for row in rows], dtype=np.int64)
        if threshold_ns is None:
            threshold_ns = _default_threshold_ns(durations)
        spans = _Spans(durations, threshold_ns)
        columns: list[_Column] = []
        if spans.slow_count and spans.number >= 2 * _LEAST_SUPPORT:
            columns = _columns(connection, subject, name, rows)
    return Explanations(_explain(spans, columns), name, threshold_ns, spans.number, spans.slow_count)


def _slowest_name(store: Store, connection: apsw.Connection, subject: Subject) -> str | None:
    """The name with the largest self time, of those with enough ended spans; None if there is none.

    Not with the largest duration: that is the name of a span around others, which do not tell why they are slow.
    """
    totals = span_totals(store, connection, subject)
    names = [name for name, one in totals.items() if one.ended_count >= LEAST_SPANS]
    return min(names, key=lambda name: (-totals[name].self_ns, name), default=None)


def _checked_name(connection: apsw.Connection, subject: Subject, name: str) -> str:
    """The name of spans of the job. Raises NotFoundError, ArgumentError."""
    if not isinstance(name, str):
        raise ArgumentError(f"name is the name of spans, a str, not {name!r:.100}.")
    encoded = name.encode("utf-8", "replace").decode()
    if not value(connection, "has_name", {"trace_no": subject.trace_no, "name": encoded}):
        hint = "`tilebox-local durations`, or durations(job), lists the names; spans of tasks are task/<name>."
        raise NotFoundError("span", f"{encoded:.200}", place="in this job", hint=hint)
    return encoded


def _threshold_ns(threshold: timedelta | None) -> int | None:
    if threshold is None:
        return None
    if not isinstance(threshold, timedelta) or threshold < timedelta(0):
        raise ArgumentError(f"threshold is a timedelta of 0 or more, not {threshold!r:.100}.")
    return threshold // timedelta(microseconds=1) * 1000


def _default_threshold_ns(durations: NDArray[np.int64]) -> int:
    """Tukey's fence if at least 5 spans are above it, else the 90th percentile; percentiles are nearest ranks."""
    ordered: list[int] = sorted(durations.tolist())
    if not ordered:
        return 0

    def percentile(percent: int) -> int:
        return ordered[-(-percent * len(ordered) // 100) - 1]

    fence = percentile(75) + 3 * (percentile(75) - percentile(25)) // 2
    is_usable = len(ordered) - bisect_right(ordered, fence) >= _LEAST_OUTLIERS
    return fence if is_usable else percentile(90)


# -- candidates --------------------------------------------------------------------------------------------------------


def _columns(connection: apsw.Connection, subject: Subject, name: str, rows: list[tuple[Any, ...]]) -> list[_Column]:
    import numpy as np

    starts, _, resource_nos, parents, task_nos, attributes = zip(*rows, strict=True)
    numbers = {"trace_no": subject.trace_no, "name": name}
    parent_names = dict(run(connection, "parents_of_name", numbers))
    runners = {number: _object(text).get("service.instance.id") for number, text in run(connection, "resources")}
    inputs = {number: _object(text) for number, text in run(connection, "inputs_of_job", {"job_no": subject.job_no})}
    runs = run(connection, "runs_of_job", {"job_no": subject.job_no})

    instants = np.array(starts, dtype=np.int64)
    everywhere = np.arange(len(rows), dtype=np.int64)
    chunks = range(0, len(rows), _CHUNK)
    columns = list(_columns_of_objects("attribute", (_objects(attributes[at : at + _CHUNK]) for at in chunks)))
    columns += _columns_of_objects("input", [[inputs.get(number, {}) for number in task_nos]])
    columns.append(_column_of_names("runner", [runners.get(number) for number in resource_nos]))
    columns.append(_column_of_names("parent", [parent_names.get(number) for number in parents]))
    columns.append(_column_of_names("attempt", _retries(starts, task_nos, runs)))
    running = _running(instants, runs).tolist()
    columns.append(_Column("concurrency", "concurrency", everywhere, running, is_cut_only=True))
    since = [start - subject.submitted_ns for start in starts]  # exact, which a float of an instant is not
    columns.append(_Column("start", "start", everywhere, since, is_cut_only=True))
    return columns


def _objects(texts: Sequence[Any]) -> list[dict[str, Any]]:
    """JSON objects; empty ones for what is none."""
    try:
        loaded = list(map(orjson.loads, texts))
    except orjson.JSONDecodeError:  # of NULL, too
        return list(map(_object, texts))
    return loaded if set(map(type, loaded)) <= {dict} else list(map(_object, texts))


def _object(text: str | bytes | None) -> dict[str, Any]:
    """A JSON object; an empty one for what is none."""
    if text is None:
        return {}
    try:
        loaded = orjson.loads(text)
    except orjson.JSONDecodeError:
        return {}
    return loaded if type(loaded) is dict else {}


def _column_of_names(kind: str, names: list[Any]) -> _Column:
    """A column of text; None: the span has no such value."""
    import numpy as np

    rows = [row for row, name in enumerate(names) if name is not None]
    return _Column(kind, kind, np.array(rows, dtype=np.int64), [name for name in names if name is not None])


def _columns_of_objects(kind: str, chunks: Iterable[list[dict[str, Any]]]) -> Iterator[_Column]:
    """A column for each key. Objects with the same keys in the same order become columns together, which is fast.

    They come in chunks: Python's garbage collector looks at all objects that are there, again and again.
    """
    import numpy as np

    rows: dict[str, list[NDArray[np.int64]]] = defaultdict(list)
    values: dict[str, list[Any]] = defaultdict(list)
    first = 0
    for objects in chunks:
        shapes: dict[tuple[str, ...], list[int]] = defaultdict(list)
        for row, shape in enumerate(map(tuple, objects)):
            shapes[shape].append(row)
        for shape, members in shapes.items():
            chosen = [objects[row] for row in members]
            numbers = np.array(members, dtype=np.int64) + first
            for key in shape:
                rows[key].append(numbers)
                values[key] += map(itemgetter(key), chosen)
        first += len(objects)
    for key, found in values.items():
        if len(found) >= _LEAST_SUPPORT and len(key) <= _MAX_TEXT:
            yield _Column(kind, key, np.concatenate(rows[key]), found)


def _retries(starts: Sequence[int], task_nos: Sequence[int | None], runs: list[tuple[Any, ...]]) -> list[str | None]:
    """ "retry" for each span that started when at least two attempts of its task had."""
    first: set[int] = set()
    second: dict[int, int] = {}
    for task_no, started_ns, _ in runs:  # ascending by start
        if task_no in first:
            second.setdefault(task_no, started_ns)
        first.add(task_no)
    return [
        "retry" if task_no is not None and task_no in second and second[task_no] <= start else None
        for start, task_no in zip(starts, task_nos, strict=True)
    ]


def _running(instants: NDArray[np.int64], runs: list[tuple[Any, ...]]) -> NDArray[np.int64]:
    """How many attempts of the job run at each instant: [start, stop), so a span counts the one it belongs to."""
    import numpy as np

    started = np.array([start for _, start, _ in runs], dtype=np.int64)
    stopped = np.array([max(start, stop) for _, start, stop in runs if stop is not None], dtype=np.int64)
    running: NDArray[np.int64] = np.searchsorted(started, instants, "right").astype(np.int64)
    running -= np.searchsorted(np.sort(stopped), instants, "right").astype(np.int64)
    return running


def _hashable(one: Any) -> Any:
    """A value as a key that is equal for equal ones: 5 and 5.0 are, 1 and true are not. What is too long is _LONG."""
    kind = type(one)
    if kind is int or kind is float:
        return one
    if kind is str:
        return one if len(one) <= _MAX_TEXT else _LONG
    text = orjson.dumps(one).decode()
    return _Json(text) if len(text) <= _MAX_TEXT else _LONG


def _tests(column: _Column, spans: _Spans) -> Iterator[_Test]:
    """The candidates of a column: each value, and the deciles of numbers; with enough spans on both sides."""
    kinds = set(map(type, column.values))
    if not column.is_cut_only:
        yield from _equalities(column, kinds, spans)
    if not kinds.isdisjoint((int, float)):
        yield from _cuts(column, kinds, spans)


def _equalities(column: _Column, kinds: set[type], spans: _Spans) -> Iterator[_Test]:
    import numpy as np

    values = column.values
    # Most columns can be counted as they are.
    is_plain = kinds <= {int, float} or kinds == {bool} or (kinds == {str} and max(map(len, values)) <= _MAX_TEXT)
    if not is_plain:
        values = [_hashable(one) for one in values]
    known = list(dict.fromkeys(values))
    if len(values) - len(known) < _LEAST_SUPPORT - 1:
        return  # no value is there often enough
    numbers = {one: number for number, one in enumerate(known)}
    codes = np.fromiter(map(numbers.__getitem__, values), dtype=np.int64, count=len(values))
    sizes = np.bincount(codes)
    rank_sums = np.bincount(codes, weights=spans.ranks[column.rows])
    slow = np.bincount(codes, weights=spans.is_slow[column.rows])
    for code in np.flatnonzero((sizes >= _LEAST_SUPPORT) & (spans.number - sizes >= _LEAST_SUPPORT)).tolist():
        one = _hashable(known[code]) if is_plain else known[code]
        if one is not _LONG:
            members = partial(_where_equal, column.rows, codes, code)
            yield _Test(column, "=", one, members, int(sizes[code]), int(slow[code]), float(rank_sums[code]), True)


def _where_equal(rows: NDArray[np.int64], codes: NDArray[np.int64], code: int) -> NDArray[np.int64]:
    found: NDArray[np.int64] = rows[codes == code]
    return found


def _cuts(column: _Column, kinds: set[type], spans: _Spans) -> Iterator[_Test]:
    """At or above a decile (nearest rank); if not all spans have a number, also below it."""
    import numpy as np

    values, rows = column.values, column.rows
    if not kinds <= {int, float}:
        is_number = [type(one) is int or type(one) is float for one in values]
        values, rows = [one for one, flag in zip(values, is_number, strict=True) if flag], rows[np.array(is_number)]
    numbers = np.array(values, dtype=np.float64)
    ordered = np.sort(numbers)
    deciles = np.unique(ordered[[-(-tenth * len(ordered) // 10) - 1 for tenth in range(1, 10)]])
    if not column.is_cut_only and len(np.unique(ordered)) <= 2:
        return  # equal to one of the two says the same
    ranks, is_slow = spans.ranks[rows], spans.is_slow[rows]
    is_everywhere = len(rows) == spans.number
    for cut in deciles[deciles > ordered[0]].tolist():
        is_above = numbers >= cut
        for operator, chosen in ((">=", is_above),) if is_everywhere else ((">=", is_above), ("<", ~is_above)):
            size = int(chosen.sum())
            if size >= _LEAST_SUPPORT and spans.number - size >= _LEAST_SUPPORT:
                members = partial(_where, rows, chosen)
                slow, rank_sum = int(is_slow[chosen].sum()), float(ranks[chosen].sum())
                yield _Test(column, operator, cut, members, size, slow, rank_sum, is_everywhere)


def _where(rows: NDArray[np.int64], chosen: NDArray[np.bool_]) -> NDArray[np.int64]:
    return rows[chosen]


# -- explanations ------------------------------------------------------------------------------------------------------


def _explain(spans: _Spans, columns: list[_Column]) -> list[Explanation]:
    import numpy as np

    tests = [test for column in columns for test in _tests(column, spans)]
    if not tests:
        return []
    rank_sums = np.array([test.rank_sum for test in tests])
    sizes = np.array([test.size for test in tests])
    effects, ps = of_rank_sums(rank_sums, sizes, spans.number, spans.tied)
    corrected = holm(ps.tolist())
    findings = [
        _Finding(test, bool(effect < 0), abs(float(effect)), p)
        for test, effect, p in zip(tests, effects, corrected, strict=True)
        if p <= _ALPHA and abs(effect) >= _LEAST_EFFECT and (effect > 0 or test.can_turn)
    ]
    found = [one for one in findings if _has_more_than_its_share(one, spans)]
    return _merged(sorted(found, key=_order), spans)


def _has_more_than_its_share(finding: _Finding, spans: _Spans) -> bool:
    """Of the slow spans: what is longer than the rest need not be slow."""
    size, slow = finding.test.size, finding.test.slow
    if finding.is_turned:
        size, slow = spans.number - size, spans.slow_count - slow
    return slow * spans.number > spans.slow_count * size


def _order(finding: _Finding) -> Any:
    column = finding.test.column
    operator = ("=", "!=", ">=", "<").index(finding.operator)
    return -round(finding.effect, 9), _KINDS.index(column.kind), operator, column.key, str(finding.test.value)


def _merged(findings: list[_Finding], spans: _Spans) -> list[Explanation]:
    """One explanation for each set of spans. Of a key all values that are slow, or else the best other condition."""
    import numpy as np

    groups: dict[bytes, tuple[NDArray[np.bool_], list[_Finding]]] = {}
    best: dict[tuple[str, str], str] = {}  # operator by key
    for finding in findings:
        name = finding.test.column[:2]
        if name in best and not best[name] == finding.operator == "=":
            continue
        best[name] = finding.operator
        chosen = np.full(spans.number, finding.is_turned)
        chosen[finding.test.members()] = not finding.is_turned
        key = np.packbits(chosen).tobytes()
        if key not in groups and len(groups) == _MAX_EXPLANATIONS:
            break
        groups.setdefault(key, (chosen, []))[1].append(finding)
    return [_explanation(chosen, group, spans) for chosen, group in groups.values()]


def _explanation(chosen: NDArray[np.bool_], group: list[_Finding], spans: _Spans) -> Explanation:
    best = group[0]
    conditions = [_condition(finding) for finding in group]
    size, slow = int(chosen.sum()), int(spans.is_slow[chosen].sum())
    with_ns, without_ns = spans.median_ns(chosen), spans.median_ns(~chosen)
    slow_spans = f"{counted(spans.slow_count, 'slow span')} {'has' if spans.slow_count == 1 else 'have'}"
    others = f" (the same spans: {', '.join(conditions[1:])})" if len(conditions) > 1 else ""
    return Explanation(
        condition=conditions[0],
        same_spans=tuple(conditions[1:]),
        kind=best.test.column.kind,
        key=best.test.column.key,
        operator=best.operator,
        value=_value(best.test),
        spans=size,
        slow_spans=slow,
        precision=slow / size,
        recall=slow / spans.slow_count,
        effect=best.effect,
        with_duration_ns=with_ns,
        without_duration_ns=without_ns,
        p=min(finding.p for finding in group),
        reason=f"{conditions[0]}{others}: {slow} of {slow_spans} it "
        f"(median {duration_in_words(with_ns)} against {duration_in_words(without_ns)} without)",
    )


def _condition(finding: _Finding) -> str:
    kind, key = finding.test.column[:2]
    shown = _value(finding.test)
    if kind == "start":
        text = duration_in_words(shown)
    elif isinstance(finding.test.value, str):
        text = finding.test.value
        text = text if _PLAIN_TEXT.fullmatch(text) else orjson.dumps(text).decode()
    elif isinstance(finding.test.value, _Json):
        text = finding.test.value.text
    else:
        text = str(shown)
    return f"{'input.' if kind == 'input' else ''}{key} {finding.operator} {text}"


def _value(test: _Test) -> Any:
    """The value as the user set it."""
    if isinstance(test.value, _Json):
        return decode_attributes(f'{{"value":{test.value.text}}}')["value"]
    if isinstance(test.value, float) and test.value.is_integer() and abs(test.value) < 2**53:
        return int(test.value)
    return test.value
