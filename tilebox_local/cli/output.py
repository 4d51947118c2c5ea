"""What commands print: tables, JSON, long texts. No text of a store can steer the terminal."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
from dataclasses import dataclass
from itertools import chain, islice
from typing import TYPE_CHECKING, Any, TypeVar

from tilebox_local.formatting.text import cell_width, cut_end, visible

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
    from pathlib import Path

    from tilebox_local.cli.session import Session
    from tilebox_local.cli.stream import Stream

__all__ = [
    "MEASURED",
    "STATE_COLORS",
    "Column",
    "json_line",
    "left_out",
    "paint_state",
    "plain_row",
    "show_rows",
    "show_text",
    "take",
    "terminal_width",
    "time_of_day",
    "use_ascii",
    "use_color",
    "write_json",
    "write_line",
    "write_path",
]

_Row = TypeVar("_Row", bound="Sequence[Any]")

# Rows and bytes that decide how wide a table is if it is not for a terminal: later rows are written when they come.
MEASURED = (10_000, 10_000_000)
_MIN_WIDTH = 16  # of a column that gives way
_JSON_COLUMNS = ("attributes", "links")
_NOT_ASCII = re.compile(r"[^\x00-\x7e]")
# C1 controls, marks of direction, and what else `visible` shows; orjson escapes C0.
_STEERING = re.compile(
    "[\x7f-\x9f\xad\u061c\u180e\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb\U000e0000-\U000e007f]"
)
STATE_COLORS = {
    "COMPLETED": "32", "COMPUTED": "32", "RUNNING": "36", "STARTED": "36", "FAILED": "31", "ERROR": "31",
    "FATAL": "31", "CANCELED": "33", "WARN": "33", "FAILED_OPTIONAL": "33", "SKIPPED": "2", "DEBUG": "2", "TRACE": "2",
}  # fmt: skip


@dataclass(frozen=True)
class Column:
    """One column of a table: the key of the rows, its heading, and how a value is shown."""

    key: str
    heading: str | None = None
    show: Callable[[Any], str] = str
    right: bool = False
    paints: bool = False  #: whether its values are states with colours
    gives_way: bool = False  #: whether it is the first to become narrower on a narrow terminal
    brief: Callable[[str], str] | None = None  #: a shorter form of what is shown, where there is no room; "": none

    @property
    def title(self) -> str:
        """The heading. That of a query is the user's own."""
        return visible(self.key if self.heading is None else self.heading)

    def text(self, row: Mapping[str, Any]) -> str:
        """The value of a row, as it is shown."""
        value = row.get(self.key)
        return "" if value is None else visible(self.show(value))


def time_of_day(text: str) -> str:
    """Of an instant: hours to milliseconds."""
    return text[11:23]


def left_out(text: str) -> str:  # noqa: ARG001
    """The brief form of what can be done without."""
    return ""


def use_color(session: Session) -> bool:
    """Whether stdout gets colours: --color, then NO_COLOR, then FORCE_COLOR, then whether it is a terminal."""
    if session.color != "auto":
        return session.color == "always"
    if os.environ.get("NO_COLOR"):
        return False
    if os.environ.get("FORCE_COLOR"):
        return True
    return sys.stdout.isatty() and os.environ.get("TERM") != "dumb"


def use_ascii() -> bool:
    """Whether stdout cannot show more than ASCII."""
    return not (sys.stdout.encoding or "").lower().startswith("utf")


def terminal_width(default: int | None) -> int | None:
    """Cells per line of the terminal; `default` if stdout is none, whatever COLUMNS says: readline exports it."""
    return shutil.get_terminal_size((default or 100, 24)).columns if sys.stdout.isatty() else default


def show_rows(
    session: Session, rows: Iterable[Mapping[str, Any]], columns: Sequence[Column], *, stream: Stream | None = None
) -> None:
    """Print rows as a table; with --json as one array of objects, with all of their keys, one a line.

    With a `stream` they go there while they are read, the table as if stdout was no terminal.
    """
    if stream is None and not session.as_json and sys.stdout.isatty():
        kept = list(rows)
        if kept:
            show_text(session, table(kept, columns, width=terminal_width(None), color=use_color(session)))
    elif stream is None:
        from tilebox_local.cli.stream import Stream

        with Stream() as own:
            show_rows(session, rows, columns, stream=own)
    elif session.as_json:
        before = "["
        for row in rows:
            stream.write(f"{before}\n{json_text(plain_row(row))}")
            before = ","
        stream.write("[]\n" if before == "[" else "\n]\n")
    else:
        for line in _table_lines(rows, columns, None, color=use_color(session), measured=MEASURED):
            stream.write(f"{line}\n")


def take(rows: Iterator[_Row], most: tuple[int, int]) -> list[_Row]:
    """The first rows (sequences of values): not more than the first number, about as many bytes as the second one."""
    count, size = most
    taken = []
    for row in islice(rows, count):
        taken.append(row)
        size -= sum(map(sys.getsizeof, row))
        if size <= 0:
            break
    return taken


def table(
    rows: Iterable[Mapping[str, Any]], columns: Sequence[Column], *, width: int | None = None, color: bool = False
) -> str:
    """Rows below their headings. Nothing is cut without a `width` in cells: else what gives way, then what is last."""
    return "\n".join(_table_lines(rows, columns, width, color=color, measured=(sys.maxsize, sys.maxsize)))


def _table_lines(
    rows: Iterable[Mapping[str, Any]],
    columns: Sequence[Column],
    width: int | None,
    *,
    color: bool,
    measured: tuple[int, int],
) -> Iterator[str]:
    """Lines of a table, as wide as its first rows need; nothing without rows."""
    texts = ([column.text(row) for column in columns] for row in rows)
    cells = take(texts, measured)
    if not cells:
        return
    widths = [
        max(cell_width(column.title), *(cell_width(line[index]) for line in cells))
        for index, column in enumerate(columns)
    ]
    if width is not None:
        columns, cells, widths = _made_brief(columns, cells, widths, width)
        excess = _width(widths) - width
        for index, column in enumerate(columns):
            if column.gives_way and excess > 0:
                widths[index] = max(min(_MIN_WIDTH, widths[index]), widths[index] - excess)
    yield _line([column.title for column in columns], columns, widths, width, "1" if color else "")
    for line in chain(cells, texts):
        yield _line(line, columns, widths, width, "", color=color)


def _width(widths: Sequence[int]) -> int:
    return sum(widths) + 2 * (len(widths) - 1)


def _made_brief(
    columns: Sequence[Column], cells: list[list[str]], widths: list[int], width: int
) -> tuple[Sequence[Column], list[list[str]], list[int]]:
    """One column after the other in its brief form, or left out, until the table is as narrow as it should be."""
    for column in columns:
        if _width(widths) <= width:
            break
        if column.brief is not None:
            index = columns.index(column)
            for line in cells:
                line[index] = column.brief(line[index])
            if any(line[index] for line in cells):
                widths[index] = max(cell_width(column.title), *(cell_width(line[index]) for line in cells))
            else:
                columns = [*columns[:index], *columns[index + 1 :]]
                cells = [[*line[:index], *line[index + 1 :]] for line in cells]
                widths = [*widths[:index], *widths[index + 1 :]]
    return columns, cells, widths


def _line(
    texts: Sequence[str],
    columns: Sequence[Column],
    widths: Sequence[int],
    width: int | None,
    code: str,
    *,
    color: bool = False,
) -> str:
    parts = []
    left = width
    last = len(columns) - 1
    for index, (text, column) in enumerate(zip(texts, columns, strict=True)):
        if left is not None:
            text = cut_end(text, max(min(left, widths[index]), 0))  # noqa: PLW2901 -- as far as there is room
        blanks = " " * max(0, min(widths[index], widths[index] if left is None else left) - cell_width(text))
        painted = _paint(text, STATE_COLORS.get(text, "")) if color and column.paints else text
        parts.append(blanks + painted if column.right else painted + (blanks if index < last else ""))
        if left is not None:
            left -= widths[index] + 2
    return _paint("  ".join(parts).rstrip(), code)


def paint_state(state: str, width: int, *, color: bool) -> str:
    """A state or severity, as wide as others, in its colour."""
    return _paint(f"{visible(state):{width}}", STATE_COLORS.get(state, "") if color else "")


def _paint(text: str, code: str) -> str:
    return f"\x1b[{code}m{text}\x1b[0m" if code and text else text


def show_text(session: Session, text: str) -> None:
    """Print text, through a pager if it is longer than the terminal that it goes to."""
    if session.use_pager and sys.stdout.isatty() and os.environ.get("TERM") != "dumb":
        height = shutil.get_terminal_size((100, 24)).lines
        if text.count("\n") + 1 >= height and _page(text):
            return
    write_line(text)


def _page(text: str) -> bool:
    """Whether a pager has shown it."""
    try:
        command = shlex.split(os.environ.get("PAGER") or "less")
    except ValueError:  # a quote that is not closed
        return False
    if not command or shutil.which(command[0]) is None:
        return False
    environment = {"LESS": "FRX", **os.environ}
    with subprocess.Popen(command, stdin=subprocess.PIPE, env=environment) as pager:  # noqa: S603 -- the user's own
        try:
            pager.communicate(f"{text}\n".encode(errors="backslashreplace"))
        except KeyboardInterrupt:  # it is the pager's, which goes on
            pager.wait()
    return True


def write_line(text: str) -> None:
    """A line on stdout, whatever its encoding can show."""
    encoding = sys.stdout.encoding or "utf-8"
    sys.stdout.write(f"{text}\n".encode(encoding, "backslashreplace").decode(encoding))


def write_path(path: Path) -> None:
    """The path of a file as a line on stdout: its bytes, unless that is a terminal, so that a script can use it."""
    if sys.stdout.isatty():
        write_line(visible(str(path)))
    else:
        sys.stdout.flush()
        sys.stdout.buffer.write(os.fsencode(path) + b"\n")


def write_json(value: Any) -> None:
    """One JSON document on stdout."""
    write_line(json_text(value, indented=True))


def json_line(row: Mapping[str, Any]) -> None:
    """One row as a line of JSON, at once."""
    write_line(json_text(plain_row(row)))
    sys.stdout.flush()


def json_text(value: Any, *, indented: bool = False) -> str:
    """JSON of plain values, dataclasses, datetimes; a timedelta is a number of seconds, bytes are tagged.

    What could steer the terminal, and what stdout cannot encode, is escaped.
    """
    import orjson

    try:
        text = orjson.dumps(value, default=_other, option=orjson.OPT_INDENT_2 if indented else 0).decode()
    except orjson.JSONEncodeError:  # a path that is no UTF-8
        import json

        text = json.dumps(value, default=_other, indent=2 if indented else None)
    return (_NOT_ASCII if use_ascii() else _STEERING).sub(_escaped, text)


def _escaped(found: re.Match[str]) -> str:
    units = found[0].encode("utf-16-be", "surrogatepass")
    return "".join(f"\\u{units[at]:02x}{units[at + 1]:02x}" for at in range(0, len(units), 2))


def _other(value: Any) -> Any:
    from dataclasses import asdict, is_dataclass
    from datetime import datetime, timedelta

    if is_dataclass(value) and not isinstance(value, type):
        return asdict(value)
    if isinstance(value, datetime):
        return value.isoformat()
    if isinstance(value, timedelta):
        return value.total_seconds()
    if isinstance(value, bytes):
        from base64 import b64encode

        return {"$bytes": b64encode(value).decode()}
    return str(value)


def plain_row(row: Mapping[str, Any]) -> dict[str, Any]:
    """The row with what it has of JSON as objects instead of text."""
    return {key: _parsed(value) if key in _JSON_COLUMNS else value for key, value in row.items()}


def _parsed(value: Any) -> Any:
    import orjson

    try:
        return value if value is None else orjson.loads(value)
    except orjson.JSONDecodeError:
        return value
