"""`show`: the trace of a job as a waterfall."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from tilebox_local.cli.session import Session, command, job_argument
from tilebox_local.cli.types import COUNT

if TYPE_CHECKING:
    from collections.abc import Iterable

__all__ = ["header_lines", "show"]

_COUNTS = ("queued", "running", "computed", "failed", "skipped", "failed_optional")
_WIDTH = 100


@command(
    "show",
    examples=[
        "tilebox-local show",
        "tilebox-local job show latest --depth 2",
        "tilebox-local job show name:process-scenes --errors --logs",
        "tilebox-local job show latest --max-rows 50 --json",
    ],
)
@job_argument()
@click.option("--depth", type=COUNT, metavar="N", help="Show N levels, and count what is below them.")
@click.option("--errors", is_flag=True, help="Only failed spans, and those above them.")
@click.option("--logs", is_flag=True, help="Show log records below their span, at most 20 each.")
@click.option("--max-rows", type=COUNT, metavar="N", help="At most N spans; default 200, JSON: all.")
def show(session: Session, job: str, depth: int | None, errors: bool, logs: bool, max_rows: int | None) -> None:
    """Draw the trace of a job.

    One line per span: its name, how long it took, when (on a common axis), which runner. Failed ones come with their
    message. --json prints the row of the view `jobs` with the key `spans`: rows of the view `spans` in the order of the
    tree; with --logs also `logs`.
    """
    from tilebox_local.cli.output import json_text, show_text, terminal_width, use_ascii, use_color, write_line
    from tilebox_local.formatting.waterfall import draw_waterfall, max_levels, tree_marks
    from tilebox_local.ids import unsigned64
    from tilebox_local.query.jobs import read_job
    from tilebox_local.query.listing import find_job_key, list_logs, list_tree, read_spans, view_job
    from tilebox_local.query.waterfall import read_waterfall

    width = terminal_width(_WIDTH) or _WIDTH
    with session.look() as client:
        store = client._open_store()
        key = find_job_key(store, job)
        if session.as_json:
            with store.snapshot() as connection:
                row = view_job(connection, key.job_no)
                keys = list_tree(connection, key.job_no, limit=max_rows, depth=depth, errors_only=errors)
            # What follows may be long: it is read bit by bit, and written in between.
            write_line(json_text(row, indented=True).removesuffix("\n}") + ",")
            _write_array("spans", read_spans(store, key.job_no, keys), "," if logs else "")
            if logs:
                ids = {f"{unsigned64(span_id):016x}" for _, span_id in keys}
                _write_array("logs", (one for one in list_logs(store, key.job_no) if one["span_id"] in ids), "")
            write_line("}")
            return
        with store.snapshot() as connection:
            row = view_job(connection, key.job_no)
            progress = read_job(connection, key.job_id).progress
            found = read_waterfall(
                connection,
                key.job_no,
                limit=max_rows or 200,
                depth=depth,
                errors_only=errors,
                with_logs=logs,
                max_levels=max_levels(width),
                marks=tree_marks(ascii_only=use_ascii()),
            )
    lines = header_lines(row, [(one.label, one.done, one.total) for one in progress])
    if found is None:
        lines.append("No spans.")
    else:
        lines.append(
            draw_waterfall(
                found.tree,
                found.rows,
                start_ns=found.start_ns,
                end_ns=found.end_ns,
                width=width,
                color=use_color(session),
                ascii_only=use_ascii(),
                logs=found.logs,
            )
        )
    show_text(session, "\n".join(lines))


def _write_array(name: str, rows: Iterable[dict[str, Any]], end: str) -> None:
    """One key of an indented JSON document, each row when it comes."""
    from tilebox_local.cli.output import json_text, plain_row, write_line

    last = None
    for row in rows:
        write_line(f'  "{name}": [' if last is None else f"{last},")
        last = f"    {json_text(plain_row(row), indented=True)}".replace("\n", "\n    ")
    write_line(f'  "{name}": []{end}' if last is None else f"{last}\n  ]{end}")


def header_lines(row: dict[str, Any], progress: list[tuple[str | None, int, int]]) -> list[str]:
    """Name, state, id; times and tasks by state; progress."""
    from tilebox_local.formatting.text import visible
    from tilebox_local.formatting.waterfall import format_duration

    lines = [f"{visible(row['name'])}  {row['state']}  {row['job_id']}"]
    times = [f"submitted {row['submitted_at'][:19]}Z"]
    if row["started_at"]:
        times.append(f"started {row['started_at'][:19]}Z")
    if row["elapsed_ms"] is not None:
        times.append(f"elapsed {format_duration(round(row['elapsed_ms'] * 1e6))}")
    if row["compute_ms"]:
        times.append(f"computed for {format_duration(round(row['compute_ms'] * 1e6))}")
    lines.append(", ".join(times))
    counts = ", ".join(f"{row[name]} {name.replace('_', ' ')}" for name in _COUNTS if row[name])
    lines.append(f"{row['tasks']} tasks: {counts}" if counts else f"{row['tasks']} tasks")
    if progress:
        shown = [f"{visible(label) + ' ' if label else ''}{done}/{total}" for label, done, total in progress]
        lines.append(f"progress {', '.join(shown)}")
    return lines
