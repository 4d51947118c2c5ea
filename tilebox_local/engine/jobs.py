"""Jobs: submit, cancel, retry."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tilebox_local.catalog import run, value
from tilebox_local.engine.submissions import insert_submissions
from tilebox_local.errors import ArgumentError, NotFoundError
from tilebox_local.storage.attributes import MAX_TEXT_CHARS, encodable
from tilebox_local.storage.redaction import redact_text

if TYPE_CHECKING:
    from uuid import UUID

    import apsw

    from tilebox_local.data import TaskSubmissions

__all__ = ["cancel_job", "job_no", "retry_job", "submit_job", "validate_job_name"]


def job_no(connection: apsw.Connection, job_id: UUID) -> int:
    """Row of a job. Raises NotFoundError."""
    number: int | None = value(connection, "find_job_no", (job_id.bytes,))
    if number is None:
        raise NotFoundError("job", job_id, hint="List the jobs of this store with client.jobs().query().")
    return number


def validate_job_name(name: str) -> None:
    """Raise ArgumentError for a name that cannot be stored as it is, and TypeError for what is no text."""
    if not isinstance(name, str):
        raise TypeError(f"The job name is {name!r:.100}, which is no text; pass a str.")
    if not name:
        raise ArgumentError("A job needs a name of at least one character.")
    if len(name) > MAX_TEXT_CHARS:
        raise ArgumentError(
            f"A job name has at most {MAX_TEXT_CHARS} characters, but {name[:50]!a}... has {len(name)}."
        )
    if encodable(name) != name:
        raise ArgumentError(f"The job name {name[:100]!a} is no text that can be stored: it has a lone surrogate.")


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
    validate_job_name(name)
    number = value(
        connection,
        "insert_job",
        {"job_id": job_id.bytes, "name": redact_text(name), "trace_parent": trace_parent, "submitted_ns": now_ns},
    )
    if number is None:  # delivered twice
        known: int = value(connection, "trace_no_of_job", (job_no(connection, job_id),))
        return known
    trace_no: int = value(connection, "insert_trace", (trace_id.to_bytes(16, "big"), number))
    roots = insert_submissions(connection, submissions, job_no=number, parent=None, is_canceled=False, now_ns=now_ns)
    run(connection, "adopt_roots", (roots.first_task_no, roots.last_task_no, number))
    return trace_no


def cancel_job(connection: apsw.Connection, job_id: UUID) -> bool:
    """Withhold the queued tasks of a job; running ones go on. Returns False if it was finished or canceled."""
    number = job_no(connection, job_id)
    if value(connection, "is_job_finished", (number,)):
        return False
    if value(connection, "cancel_job", (number,)) is None:
        return False
    run(connection, "withhold_queued", (number,))
    return True


def retry_job(connection: apsw.Connection, job_id: UUID, now_ns: int) -> int:
    """Queue the failed tasks again, and let queued ones run. Computed tasks are not run again.

    Returns the number of failed tasks that were queued.
    """
    number = job_no(connection, job_id)
    run(connection, "keep_failed_attempts", (number,))
    rescheduled = run(connection, "requeue_failed", (number,))
    run(connection, "uncancel_job", (number,))
    run(connection, "release_queued", {"job_no": number, "now_ns": now_ns})
    return len(rescheduled)
