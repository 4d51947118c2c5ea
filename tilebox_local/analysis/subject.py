"""The job that an analysis is about, as one read transaction sees it."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from tilebox_local.catalog import run
from tilebox_local.errors import NotFoundError

if TYPE_CHECKING:
    from uuid import UUID

    import apsw

__all__ = ["Subject", "find_subject"]


class Subject(NamedTuple):
    """A job, its trace and its times. Instants are None until a task has started, or stopped."""

    job_no: int
    trace_no: int
    name: str
    state: str  # of data.JobState
    submitted_ns: int
    started_ns: int | None
    stopped_ns: int | None
    compute_duration_ns: int
    canceled: int
    queued_count: int
    running_count: int
    failed_count: int

    @property
    def elapsed_duration_ns(self) -> int:
        """From the first start to the last stop of its tasks; 0 if there is none."""
        if self.started_ns is None or self.stopped_ns is None:
            return 0
        return max(0, self.stopped_ns - self.started_ns)

    @property
    def is_finished(self) -> bool:
        """Whether nothing of it runs or will run by itself."""
        return self.state in ("COMPLETED", "FAILED", "CANCELED") and not self.running_count


def find_subject(connection: apsw.Connection, job_id: UUID) -> Subject:
    """The job with this id. Raises NotFoundError."""
    rows = run(connection, "analyzed_job", (job_id.bytes,))
    if not rows:
        raise NotFoundError("job", job_id, hint="List the jobs of this store with client.jobs().query().")
    return Subject(*rows[0])
