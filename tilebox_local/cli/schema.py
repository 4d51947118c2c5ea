"""`schema`: what the tables and views mean, for people and for datasette."""

from __future__ import annotations

from pathlib import PurePath

import click

from tilebox_local.cli.session import Session, command

__all__ = ["schema"]


@command(
    "schema",
    examples=[
        "tilebox-local schema",
        "tilebox-local schema --format markdown > schema.md",
        "tilebox-local schema --format datasette > metadata.json  # then: datasette tilebox.db -m metadata.json",
    ],
    prints_data=False,
)
@click.option(
    "--format",
    "kind",
    type=click.Choice(["sql", "questions", "markdown", "datasette"]),
    default="sql",
    show_default=True,
    help="schema.sql; questions in SQL for `tilebox-local sql @name`; a page of both; metadata for datasette.",
)
def schema(session: Session, kind: str) -> None:
    """Print schema.sql, which documents tables and views."""
    from tilebox_local.cli.output import show_text, write_json

    if kind == "datasette":
        from tilebox_local.export.datasette import datasette_metadata

        write_json(datasette_metadata(PurePath(session.path).stem))
    elif kind == "markdown":
        from tilebox_local.export.schema_page import schema_page

        show_text(session, schema_page().rstrip("\n"))
    elif kind == "questions":
        from tilebox_local.export.questions import read_questions_sql

        show_text(session, read_questions_sql().rstrip("\n"))
    else:
        from tilebox_local.storage.schema import read_schema_sql

        show_text(session, read_schema_sql().rstrip("\n"))
