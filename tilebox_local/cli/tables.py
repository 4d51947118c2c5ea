"""Tables for people, and JSON for programs. Text from a store cannot steer the terminal."""

from __future__ import annotations

import shutil
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import click

from tilebox_local.formatting.text import cell_width, cut_middle, visible

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from tilebox_local.cli.settings import Settings

__all__ = ["Column", "show_json", "show_rows", "to_json"]

_MIN_WIDTH = 8
_GAP = "  "


@dataclass(frozen=True)
class Column:
    """One column of a table: its heading, the key of its values, and how they are written.

    Only texts are cut to make a line fit: words (ids, states) would be useless then, and prose is worth a second line.
    """

    heading: str
    key: str
    kind: Literal["text", "word", "prose", "count", "ms", "share", "time", "number"] = "text"

    @property
    def is_right(self) -> bool:
        """Whether numbers are to stand below each other."""
        return self.kind not in ("text", "word", "prose", "time")

    def text(self, value: Any) -> str:
        """A value as people read it; "" for None."""
        if value is None:
            return ""
        if self.kind == "ms":
            from tilebox_local.formatting.waterfall import format_duration

            return format_duration(round(value * 1e6))
        if self.kind == "share":
            return f"{value * 100:.1f} %"
        if self.kind == "count":
            return f"{value:,}"
        if self.kind == "number":
            return f"{value:.2f}"
        if self.kind == "time":
            return str(value)[:23].replace("T", " ") + ("Z" if str(value).endswith("Z") else "")
        return visible(str(value))


def to_json(value: Any) -> str:
    """Compact JSON; what JSON does not know becomes text."""
    import orjson

    return orjson.dumps(value, default=str).decode()


def show_json(settings: Settings, value: Any) -> None:
    """One JSON value on stdout, a list with one item per line."""
    if isinstance(value, list):
        lines = ",\n".join(f" {to_json(item)}" for item in value)
        settings.print(f"[\n{lines}\n]" if value else "[]")
    else:
        settings.print(to_json(value))


def show_rows(
    settings: Settings,
    rows: Sequence[Mapping[str, Any]],
    columns: Sequence[Column],
    *,
    empty: str,
    red: str | None = None,
) -> None:
    """Rows as JSON (--json), else as a table; if there are none, say so on stderr.

    Args:
        settings: The options of the command.
        rows: Values by key.
        columns: What the table shows of them. On a terminal, the widest texts are cut until it fits.
        empty: What to say if there are no rows.
        red: Rows in which this key is neither None, 0 nor False are red.
    """
    if settings.json:
        show_json(settings, list(rows))
        return
    if not rows:
        settings.say(empty)
        return
    cells = [[column.text(row.get(column.key)) for column in columns] for row in rows]
    used = [i for i, _ in enumerate(columns) if any(line[i] for line in cells)]  # columns without values are left out
    columns, cells = [columns[i] for i in used], [[line[i] for i in used] for line in cells]
    widths = [max(map(cell_width, [column.heading, *(line[i] for line in cells)])) for i, column in enumerate(columns)]
    if sys.stdout.isatty():
        _fit(widths, [column.kind == "text" for column in columns], shutil.get_terminal_size().columns)
    lines = [click.style(_line([column.heading for column in columns], columns, widths), bold=True)]
    for row, line in zip(rows, cells, strict=True):
        text = _line(line, columns, widths)
        lines.append(click.style(text, fg="red") if red is not None and row.get(red) else text)
    settings.print("\n".join(lines))


def _fit(widths: list[int], may_shrink: Sequence[bool], room: int) -> None:
    """Make the widest texts narrower until the line fits, or they are narrow."""
    while sum(widths) + len(_GAP) * (len(widths) - 1) > room:
        widest = max((i for i, may in enumerate(may_shrink) if may), key=lambda i: widths[i], default=None)
        if widest is None or widths[widest] <= _MIN_WIDTH:
            return
        widths[widest] -= 1


def _line(cells: Sequence[str], columns: Sequence[Column], widths: Sequence[int]) -> str:
    parts = []
    for cell, column, width in zip(cells, columns, widths, strict=True):
        text = cut_middle(cell, width) if cell_width(cell) > width else cell
        padding = " " * (width - cell_width(text))
        parts.append(padding + text if column.is_right else text + padding)
    return _GAP.join(parts).rstrip()
