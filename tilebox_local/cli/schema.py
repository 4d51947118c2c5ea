"""schema: the documented DDL."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tilebox_local.cli.settings import store_command

if TYPE_CHECKING:
    from tilebox_local.cli.settings import Settings

__all__ = ["COMMANDS"]


@store_command(
    "schema",
    epilog="""\b
Examples:
  tilebox-local schema
  tilebox-local schema | grep -A 20 'CREATE VIEW bottlenecks'""",
)
def schema(settings: Settings) -> None:
    """Print schema.sql, which documents tables and views. Needs no store."""
    from tilebox_local.storage.schema import read_schema_sql

    settings.print(read_schema_sql().rstrip("\n"))


COMMANDS = {"schema": schema}
