"""Where tasks wait, and what retries cost: `client.jobs().queue_waits(job)`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from tilebox_local.analysis.records import Record, Records, from_view
from tilebox_local.analysis.subject import find_subject
from tilebox_local.catalog import run

if TYPE_CHECKING:
    from uuid import UUID

    from tilebox_local.storage.store import Store

__all__ = ["QueueWait", "find_queue_waits"]


@dataclass(frozen=True)
class QueueWait(Record):
    """The attempts of one task of a job: how long they waited for a runner, and what became of their work."""

    name: str
    version: str
    attempts: int
    wait_duration_ns: int  #: from when the task could be claimed to the claim, all attempts together
    mean_wait_duration_ns: int
    p50_wait_duration_ns: int  #: nearest rank
    p95_wait_duration_ns: int
    max_wait_duration_ns: int
    run_duration_ns: int  #: of attempts that have ended
    wait_share: float | None  #: wait / (wait + run); None: both are 0
    retries: int  #: attempts that failed and were tried again
    retry_cost_duration_ns: int  #: their run time
    lost: int  #: attempts that were lost with their runner
    lost_cost_duration_ns: int  #: their run time, and the time until the loss was noticed
    released: int  #: attempts that a runner gave back
    released_cost_duration_ns: int  #: their run time


def find_queue_waits(store: Store, job_id: UUID) -> Records[QueueWait]:
    """One record per task of the job that was claimed, descending by wait. Raises NotFoundError."""
    with store.snapshot() as connection:
        subject = find_subject(connection, job_id)
        rows = run(connection, "queue_waits", (subject.job_no,))
    return Records(QueueWait, [from_view(QueueWait, row) for row in rows])
