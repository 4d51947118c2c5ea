"""`export`: rows of a view as a file."""

from __future__ import annotations

import sys
from pathlib import PurePath
from typing import TYPE_CHECKING

import click

from tilebox_local.cli.session import Session, command

if TYPE_CHECKING:
    from uuid import UUID

    from tilebox_local.client import Client

__all__ = ["export"]

_FORMATS = ("csv", "json", "ndjson")
_EXTENSIONS = {".csv": "csv", ".json": "json", ".ndjson": "ndjson", ".jsonl": "ndjson"}


@command(
    "export",
    examples=[
        "tilebox-local export spans --job latest > spans.csv",
        "tilebox-local export logs --output logs.ndjson",
        "tilebox-local export bottlenecks --format json",
    ],
    prints_data=False,
)
@click.argument("view")
@click.option("--job", metavar="JOB", help="Only rows of this job: an id or its beginning, latest, name:NAME.")
@click.option("--format", "kind", type=click.Choice(_FORMATS), help="Default: by the extension of --output, else csv.")
@click.option(
    "-o", "--output", type=click.Path(), metavar="FILE", help="File to write; it appears when it is complete."
)
@click.option("--overwrite", is_flag=True, help="Replace the file if it exists.")
def export(session: Session, view: str, job: str | None, kind: str | None, output: str | None, overwrite: bool) -> None:
    """Write the rows of a view as CSV, JSON or NDJSON.

    VIEW is jobs, tasks, spans, events, logs or another view of `tilebox-local schema`. The rows are those of one
    moment; runners go on writing meanwhile.
    """
    from tilebox_local.export.rows import export_rows
    from tilebox_local.upkeep.files import new_file

    kind = kind or (_EXTENSIONS.get(PurePath(output).suffix.lower()) if output else None) or "csv"
    with session.look() as client:
        job_id = _find_job(client, job)
        if output is None:
            export_rows(client._open_store(), view, sys.stdout, kind, job_id)
            return
        with (
            new_file(output, overwrite=overwrite) as unfinished,
            unfinished.open("w", encoding="utf-8", newline="") as file,
        ):
            count = export_rows(client._open_store(), view, file, kind, job_id)
    session.say(f"{count:,} rows in {output}")


def _find_job(client: Client, job: str | None) -> UUID | None:
    from tilebox_local.query.listing import find_job_key

    return None if job is None else find_job_key(client._open_store(), job).job_id
