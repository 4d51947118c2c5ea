"""Where the time of a job went, the worst first: `client.jobs().bottlenecks(job)`."""

from __future__ import annotations

import bisect
from collections import defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, TypeAlias, get_args

from tilebox_local.analysis.cache import remembered
from tilebox_local.analysis.critical_path import critical_steps, savings_of
from tilebox_local.analysis.durations import span_totals
from tilebox_local.analysis.queue_waits import QueueWait
from tilebox_local.analysis.records import Record, Records, from_view
from tilebox_local.analysis.subject import find_subject
from tilebox_local.analysis.words import counted, duration_in_words, percent
from tilebox_local.catalog import run, value
from tilebox_local.errors import ArgumentError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from uuid import UUID

    import apsw

    from tilebox_local.analysis.critical_path import CriticalStep
    from tilebox_local.analysis.subject import Subject
    from tilebox_local.storage.store import Store

__all__ = ["Basis", "Bottleneck", "find_bottlenecks"]

_QUEUE_WAIT, _DELAY = "(queue wait)", "(delay)"  # on the critical path, beside the names of tasks

Basis: TypeAlias = Literal["self_time", "critical_path", "queue_wait"]


@dataclass(frozen=True)
class Bottleneck(Record):
    """A span name or a task that time was spent on."""

    basis: str  #: "self_time", "critical_path" or "queue_wait"
    rank: int  #: 1: most
    name: str  #: of spans (self_time) or of a task; on the critical path also "(queue wait)" and "(delay)"
    count: int  #: spans that have ended, or attempts
    duration_ns: int  #: self time, run time on the critical path, or time in the queue, all together
    share: float  #: of all self time, of the critical path, of all waits
    reason: str  #: in words


def find_bottlenecks(store: Store, job_id: UUID, *, by: Basis) -> Records[Bottleneck]:
    """What the time of a job was spent on, by one measure, descending; what took no time is left out.

    Raises NotFoundError, and ArgumentError for an unknown measure.
    """
    if by not in get_args(Basis):
        raise ArgumentError(f"by is one of {', '.join(map(repr, get_args(Basis)))}, not {by!r}.")
    with store.snapshot() as connection:
        subject = find_subject(connection, job_id)

        def answer() -> list[Bottleneck]:
            if by == "self_time":
                return list(_by_self_time(store, connection, subject))
            if by == "critical_path":
                return list(_by_critical_path(connection, subject.job_no))
            return list(_by_queue_wait(connection, subject.job_no))

        return Records(Bottleneck, remembered(store, connection, subject, f"bottlenecks by {by}", answer))


def _ranked(lengths: Sequence[int]) -> Iterator[int]:
    """Ranks of descending lengths: equal ones have the same, and the next one is its position."""
    rank = 0
    for position, length in enumerate(lengths):
        if not position or length != lengths[position - 1]:
            rank = position + 1
        yield rank


def _by_self_time(store: Store, connection: apsw.Connection, subject: Subject) -> Iterator[Bottleneck]:
    totals = span_totals(store, connection, subject)
    found = sorted(
        ((name, one) for name, one in totals.items() if one.self_ns > 0), key=lambda item: (-item[1].self_ns, item[0])
    )
    whole_ns = sum(one.self_ns for _, one in found)
    for rank, (name, one) in zip(_ranked([one.self_ns for _, one in found]), found, strict=True):
        share = one.self_ns / whole_ns
        reason = f"{percent(share)} of all self time, in {counted(one.ended_count, 'span')}"
        if one.ended_count > 1 and one.max_ns is not None:
            mean, longest = duration_in_words(one.total_ns // one.ended_count), duration_in_words(one.max_ns)
            reason += f" of {mean} on average, at most {longest}"
        if one.self_ns < one.total_ns:
            reason += f"; the other {percent(1 - one.self_ns / one.total_ns)} of their time is in child spans"
        yield Bottleneck("self_time", rank, name, one.ended_count, one.self_ns, share, reason)


def _by_critical_path(connection: apsw.Connection, job_no: int) -> Iterator[Bottleneck]:
    steps = critical_steps(connection, job_no)
    by_name: dict[str, list[CriticalStep]] = defaultdict(list)
    for step in steps:
        by_name[step.name].append(step)
    saved = {saving.name: saving.saved_duration_ns for saving in savings_of(connection, job_no, steps)}
    idle = _IdleRunners(connection, job_no)
    lengths = {name: sum(s.run_duration_ns or 0 for s in group) for name, group in by_name.items()}
    lengths[_QUEUE_WAIT] = sum(s.queue_wait_duration_ns for s in steps)
    lengths[_DELAY] = sum(s.delay_duration_ns for s in steps)
    whole_ns = sum(lengths.values())
    found = sorted((name for name in lengths if lengths[name] > 0), key=lambda name: (-lengths[name], name))
    for rank, name in zip(_ranked([lengths[name] for name in found]), found, strict=True):
        length, share = lengths[name], lengths[name] / whole_ns if whole_ns > 0 else 1.0
        reason = f"{percent(share)} of the time from submission to the end"
        if name == _QUEUE_WAIT:
            count = sum(s.queue_wait_duration_ns > 0 for s in steps)
            reason += f", in which the next task could have been claimed and was not, {_times(count)}"
        elif name == _DELAY:
            count = sum(s.delay_duration_ns > 0 for s in steps)
            reason += f", between the end of an attempt and when the next could be claimed, {_times(count)}"
        else:
            count = len(by_name[name])
            reason += f", in {counted(count, 'attempt')}"
            if idle.runner_count > 1:
                idle_count = f"{idle.during(by_name[name]):.1f}".removesuffix(".0")
                runners = "no runner" if idle_count == "0" else f"{idle_count} of {idle.runner_count} runners"
                reason += f"; {runners} idle meanwhile"
            if name in saved:
                reason += f"; would save {duration_in_words(saved[name])} if it took no time"
        yield Bottleneck("critical_path", rank, name, count, length, share, reason)


def _times(count: int) -> str:
    return "once" if count == 1 else f"{count:,} times"


def _by_queue_wait(connection: apsw.Connection, job_no: int) -> Iterator[Bottleneck]:
    waits = [from_view(QueueWait, row) for row in run(connection, "queue_waits", (job_no,))]
    waits = [wait for wait in waits if wait.wait_duration_ns > 0]
    whole_ns = sum(wait.wait_duration_ns for wait in waits)
    for rank, wait in zip(_ranked([wait.wait_duration_ns for wait in waits]), waits, strict=True):
        share = wait.wait_duration_ns / whole_ns
        mean, longest = duration_in_words(wait.mean_wait_duration_ns), duration_in_words(wait.max_wait_duration_ns)
        reason = f"{percent(share)} of all waiting, in {counted(wait.attempts, 'attempt')}: {mean} on average, "
        reason += f"at most {longest}; they ran for {duration_in_words(wait.run_duration_ns)}"
        name = f"{wait.name} {wait.version}"
        yield Bottleneck("queue_wait", rank, name, wait.attempts, wait.wait_duration_ns, share, reason)


class _IdleRunners:
    """How many of a job's runners were idle at a time."""

    def __init__(self, connection: apsw.Connection, job_no: int) -> None:
        self.runner_count: int = value(connection, "count_runners_of_job", (job_no,))
        self._times: list[int] = []
        self._levels: list[int] = []
        self._areas: list[int] = []  # runs times ns up to each time
        area = 0
        for time_ns, level in run(connection, "running_levels", {"job_no": job_no}):
            if self._times:
                area += self._levels[-1] * (time_ns - self._times[-1])
            self._times.append(time_ns)
            self._levels.append(level)
            self._areas.append(area)

    def _area(self, time_ns: int) -> int:
        at = bisect.bisect_right(self._times, time_ns) - 1
        return 0 if at < 0 else self._areas[at] + self._levels[at] * (time_ns - self._times[at])

    def during(self, steps: Sequence[CriticalStep]) -> float:
        """Mean number of idle runners while the steps ran."""
        length = busy = 0
        for step in steps:
            if step.stopped_at_ns is not None and step.stopped_at_ns > step.started_at_ns:
                length += step.stopped_at_ns - step.started_at_ns
                busy += self._area(step.stopped_at_ns) - self._area(step.started_at_ns)
        return max(0.0, self.runner_count - busy / length) if length else 0.0
