"""`cancel` and `retry`."""

from __future__ import annotations

from tilebox_local.cli.session import Session, command, job_argument

__all__ = ["cancel", "retry"]


@command("cancel", examples=["tilebox-local cancel latest", "tilebox-local cancel name:process-scenes"])
@job_argument(None)
def cancel(session: Session, job: str) -> None:
    """Stop handing out the tasks of a job.

    Tasks that run end normally; `tilebox-local retry` resumes the job.
    """
    from tilebox_local.cli.output import write_json
    from tilebox_local.query.listing import find_job_key, view_job

    with session.change() as client:
        key = find_job_key(client._open_store(), job)
        client.jobs().cancel(client.jobs().find(key.job_id))
        with client._open_store().snapshot() as connection:
            row = view_job(connection, key.job_no)
    if session.as_json:
        write_json(row)
    session.say(f"Job {key.job_id} ({key.name}) is {row['state']}.")


@command("retry", examples=["tilebox-local retry latest", "tilebox-local retry name:process-scenes --json"])
@job_argument(None)
def retry(session: Session, job: str) -> None:
    """Run the failed tasks of a job again.

    What waited for them runs, too; tasks that are computed do not run again.
    """
    from tilebox_local.cli.output import write_json
    from tilebox_local.query.listing import find_job_key, view_job

    with session.change() as client:
        key = find_job_key(client._open_store(), job)
        with client._open_store().snapshot() as connection:
            before = view_job(connection, key.job_no)
        count = client.jobs().retry(client.jobs().find(key.job_id))
        with client._open_store().snapshot() as connection:
            row = view_job(connection, key.job_no)
    if session.as_json:
        write_json(row)
    job_text = f"job {key.job_id} ({key.name})"
    if count:
        session.say(f"{'1 failed task' if count == 1 else f'{count} failed tasks'} of {job_text} will run again.")
    elif before["state"] == "CANCELED":
        session.say(f"J{job_text[1:]} goes on; it is {row['state']}.")
    else:
        session.say(f"There is nothing to retry: {job_text} is {before['state']}.")
