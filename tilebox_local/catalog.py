"""SQL by name. Statements live in `sql/*.sql`, each headed by `-- name: <name>` and a comment that says what it does.

Read as `sql["claim_task"]`. Comments before the first name describe the file.
"""

from __future__ import annotations

import re
from importlib import resources

__all__ = ["Catalog", "sql"]

_NAME = re.compile(r"^-- name: (\w+)\s*$", re.MULTILINE)


class Catalog:
    """All named statements of the package, read at first use."""

    def __init__(self) -> None:
        self._statements: dict[str, str] | None = None

    def _load(self) -> dict[str, str]:
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

    @property
    def statements(self) -> dict[str, str]:
        """name -> statement."""
        if self._statements is None:
            self._statements = self._load()
        return self._statements

    def __getitem__(self, name: str) -> str:
        return self.statements[name]


sql = Catalog()
