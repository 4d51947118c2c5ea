"""Jobs: submit, cancel, retry."""

from __future__ import annotations

from typing import TYPE_CHECKING
from uuid import UUID

from tilebox_local.catalog import sql
from tilebox_local.engine.submissions import insert_submissions
from tilebox_local.errors import ArgumentError, NotFoundError

if TYPE_CHECKING:
    import apsw

    from tilebox_local.data import TaskSubmissions

__all__ = ["cancel_job", "job_no", "retry_job", "submit_job"]


def job_no(connection: apsw.Connection, job_id: UUID) -> int:
    """Row of a job. Raises NotFoundError."""
    number: int | None = connection.execute(sql["find_job_no"], (job_id.bytes,)).get
    if number is None:
        raise NotFoundError("job", job_id, hint="List the jobs of this store with client.jobs().query().")
    return number


def submit_job(
    connection: apsw.Connection,
    *,
    job_id: UUID,
    name: str,
    trace_id: int,
    trace_parent: str,
    submissions: TaskSubmissions,
    now_ns: int,
) -> int:
    """Insert a job with its trace and root tasks; return the number of its trace. A known `job_id` changes nothing.

    Raises ArgumentError and NotFoundError (cluster).
    """
    if not name:
        raise ArgumentError("A job needs a name of at least one character.")
    number = connection.execute(
        sql["insert_job"],
        {"job_id": job_id.bytes, "name": name, "trace_parent": trace_parent, "submitted_ns": now_ns},
    ).get
    if number is None:  # delivered twice
        return connection.execute(
            "SELECT trace_no FROM trace_records WHERE job_no = ?", (job_no(connection, job_id),)
        ).get  # type: ignore[no-any-return]
    trace_no: int = connection.execute(sql["insert_trace"], (trace_id.to_bytes(16, "big"), number)).get
    insert_submissions(connection, submissions, job_no=number, parent=None, is_canceled=False, now_ns=now_ns)
    return trace_no


def cancel_job(connection: apsw.Connection, job_id: UUID) -> bool:
    """Withhold the queued tasks of a job; running ones go on. Returns False if it was finished or canceled."""
    number = job_no(connection, job_id)
    if connection.execute(sql["is_job_finished"], (number,)).get:
        return False
    if connection.execute(sql["cancel_job"], (number,)).get is None:
        return False
    connection.execute(sql["withhold_queued"], (number,)).fetchall()
    return True


def retry_job(connection: apsw.Connection, job_id: UUID, now_ns: int) -> int:
    """Queue the failed tasks again, and let queued ones run. Computed tasks are not run again.

    Returns the number of failed tasks that were queued.
    """
    number = job_no(connection, job_id)
    rescheduled = connection.execute(sql["requeue_failed"], (number,)).fetchall()
    connection.execute(sql["uncancel_job"], (number,)).fetchall()
    connection.execute(sql["release_queued"], {"job_no": number, "now_ns": now_ns}).fetchall()
    return len(rescheduled)
