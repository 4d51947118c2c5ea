"""SQL by name. Statements live in `sql/*.sql`, each headed by `-- name: <name>` and a comment that says what it does.

`run(connection, "claim_task", {...})` executes one and drains it; `sql["claim_task"]` is its text. Comments before the
first name of a file describe the file.
"""

from __future__ import annotations

import re
from importlib import resources
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable

    import apsw

__all__ = ["Catalog", "run", "run_many", "sql", "value"]

_NAME = re.compile(r"^-- name: (\w+)\s*$", re.MULTILINE)


class Catalog(dict[str, str]):
    """Statements by name, read from the files when one is first asked for."""

    def __missing__(self, name: str) -> str:
        if self:
            raise KeyError(name)
        self.update(_read_statements())
        return self[name]


def _read_statements() -> dict[str, str]:
    statements: dict[str, str] = {}
    folder = resources.files("tilebox_local").joinpath("sql")
    for file in sorted(folder.iterdir(), key=lambda entry: entry.name):
        if not file.name.endswith(".sql"):
            continue
        parts = _NAME.split(file.read_text(encoding="utf-8"))
        for name, text in zip(parts[1::2], parts[2::2], strict=True):
            if name in statements:
                raise ValueError(f"Two statements are named {name!r}.")
            # Comments are for readers; SQLite caches statements by their text.
            lines = [line.split(" --", 1)[0].rstrip() for line in text.splitlines()]
            statements[name] = "\n".join(line for line in lines if line and not line.startswith("--"))
    return statements


sql = Catalog()


def run(connection: apsw.Connection, name: str, parameters: Any = None) -> list[tuple[Any, ...]]:
    """Execute a named statement; all of its rows. Draining it matters: a half-read cursor blocks later writes."""
    return connection.execute(sql[name], parameters).fetchall()


def run_many(connection: apsw.Connection, name: str, rows: Iterable[Any]) -> None:
    """Execute a named statement once for each sequence of parameters."""
    connection.executemany(sql[name], rows).fetchall()


def value(connection: apsw.Connection, name: str, parameters: Any = None) -> Any:
    """Execute a named statement; its first row, bare if it has one column, None if there is no row."""
    return connection.execute(sql[name], parameters).get
