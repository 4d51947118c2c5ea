"""How much went on at the same time: `client.jobs().concurrency(job)`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from tilebox_local import clock
from tilebox_local.analysis.records import Record, Records, from_view
from tilebox_local.analysis.subject import find_subject
from tilebox_local.catalog import run, value
from tilebox_local.errors import ArgumentError

if TYPE_CHECKING:
    from collections.abc import Iterable
    from uuid import UUID

    from tilebox_local.storage.store import Store

__all__ = ["Concurrency", "ConcurrencySlot", "RunnerUse", "Straggler", "find_concurrency"]

_MAX_SLOTS = 10_000


@dataclass(frozen=True)
class ConcurrencySlot(Record):
    """A part of a job's time: means over it, and the highest values in it."""

    start_time_ns: int
    duration_ns: int
    running: float  #: tasks that ran, on average
    max_running: int
    queued: float  #: tasks that could have been claimed
    max_queued: int
    open_spans: float
    max_open_spans: int


@dataclass(frozen=True)
class RunnerUse(Record):
    """What a runner did for a job, between the job's first start and its last stop."""

    runner: str | None
    attempts: int
    failed: int  #: failed or lost
    busy_duration_ns: int  #: at least one attempt ran
    idle_duration_ns: int
    utilization: float | None  #: busy / (busy + idle)
    longest_idle_duration_ns: int


@dataclass(frozen=True)
class Straggler(Record):
    """An attempt that took unusually long for its task: above Q3 + 1.5 (Q3 - Q1) and twice the median."""

    task_id: str
    name: str
    attempt: int
    runner: str | None
    duration_ns: int
    median_duration_ns: int
    fence_duration_ns: int
    started_at_ns: int


class Concurrency(Records[ConcurrencySlot]):
    """Slots in the order of time.

    `runners` are ordered by busy time, `stragglers` by duration, both descending. `mean_running` is compute time /
    elapsed time: how many tasks ran on average. `parallelism_score` is `mean_running` / number of runners: 1 if none of
    them was ever idle; None without a runner.
    """

    def __init__(
        self,
        slots: Iterable[ConcurrencySlot],
        runners: Iterable[RunnerUse],
        stragglers: Iterable[Straggler],
        mean_running: float,
    ) -> None:
        super().__init__(ConcurrencySlot, slots)
        self.runners = Records(RunnerUse, runners)
        self.stragglers = Records(Straggler, stragglers)
        self.mean_running = mean_running

    def __reduce__(self) -> Any:
        return Concurrency, (list(self), list(self.runners), list(self.stragglers), self.mean_running)

    @property
    def peak_running(self) -> int:
        """The highest number of tasks that ran at once."""
        return max((slot.max_running for slot in self), default=0)

    @property
    def parallelism_score(self) -> float | None:
        """The part of the runners' time in which tasks ran."""
        return self.mean_running / len(self.runners) if self.runners else None


def find_concurrency(store: Store, job_id: UUID, *, slots: int) -> Concurrency:
    """The time from the submission of a job to its last stop (now, if it goes on), in at most `slots` equal parts.

    Raises NotFoundError, and ArgumentError unless `slots` is between 1 and 10,000.
    """
    if isinstance(slots, bool) or not isinstance(slots, int) or not 1 <= slots <= _MAX_SLOTS:
        raise ArgumentError(f"slots is a number from 1 to {_MAX_SLOTS:,}, not {slots!r}.")
    with store.snapshot() as connection:
        subject = find_subject(connection, job_id)
        from_ns = subject.submitted_ns
        until_ns = max(from_ns, value(connection, "end_of_job", (subject.job_no,)) or 0)
        if not subject.is_finished:
            until_ns = max(until_ns, clock.wall_ns())
        width_ns = max(1, -(-(until_ns - from_ns) // slots))
        bounds = {"from_ns": from_ns, "until_ns": until_ns, "width_ns": width_ns}
        numbers = {"job_no": subject.job_no, "trace_no": subject.trace_no}
        rows = run(connection, "concurrency_slots", bounds | numbers)
        runners = [from_view(RunnerUse, row) for row in run(connection, "runner_use", (subject.job_no,))]
        stragglers = [from_view(Straggler, row) for row in run(connection, "stragglers", (subject.job_no,))]
    found = []
    for slot, running, max_running, queued, max_queued, spans, max_spans in rows:
        start_ns = from_ns + slot * width_ns
        length_ns = min(width_ns, until_ns - start_ns)
        found.append(
            ConcurrencySlot(
                start_ns,
                length_ns,
                running / length_ns,
                max_running,
                queued / length_ns,
                max_queued,
                spans / length_ns,
                max_spans,
            )
        )
    elapsed_ns = subject.elapsed_duration_ns
    return Concurrency(found, runners, stragglers, subject.compute_duration_ns / elapsed_ns if elapsed_ns else 0.0)
