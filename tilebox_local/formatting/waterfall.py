"""A trace as a tree with bars, as text for the terminal.

Does not do: reading spans, finding out the terminal's width or whether it shows colours. No text of a span
can steer the terminal.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from tilebox_local.clock import datetime_to_ns
from tilebox_local.data import TASK_FAILED_STATUS
from tilebox_local.errors import ArgumentError
from tilebox_local.formatting.text import cell_width, cut_end, cut_middle, visible
from tilebox_local.formatting.trace_tree import Left, Line, Marks, Tree, arrange

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from tilebox_local.telemetry import Span

__all__ = [
    "LogRow",
    "LogRows",
    "SpanRow",
    "draw_waterfall",
    "format_duration",
    "max_levels",
    "render_waterfall",
    "tree_marks",
]

_MIN_WIDTH = 48
_MIN_NAME, _MIN_BAR, _DURATION = 12, 12, 7
_RUNNER = 8
_RUNNER_COLORS = ("36", "33", "35", "32", "94", "96")  # red is for errors
_RED, _YELLOW, _DIM, _BOLD = "31", "33", "2", "1"
_SEVERITY_COLORS = {"ERROR": _RED, "FATAL": _RED, "WARN": _YELLOW}
_UNITS = ((1_000, "µs"), (1_000_000, "ms"), (1_000_000_000, "s"), (60_000_000_000, "m"))


@dataclass(frozen=True)
class SpanRow:
    """What one line shows of a span."""

    span_id: str
    parent_span_id: str | None  #: None, or the id of a span that is not there: a root
    name: str
    start_ns: int  #: instant
    end_ns: int | None  #: instant; None while the span is open
    runner: str  #: service.instance.id; "" if unknown
    is_error: bool
    message: str  #: what went wrong, shown for errors only

    @classmethod
    def from_span(cls, span: Span) -> SpanRow:
        """The row of a span that a query returned.

        Its message is the status message; where that gives no reason, the last exception that was recorded.
        """
        message = span.status_message
        if message in ("", TASK_FAILED_STATUS):
            message = _last_exception(span) or message
        return cls(
            span_id=span.span_id,
            parent_span_id=span.parent_span_id,
            name=span.name,
            start_ns=datetime_to_ns(span.start_time),
            end_ns=None if span.end_time is None else datetime_to_ns(span.end_time),
            runner=str(span.runner_attributes.get("service.instance.id", "")),
            is_error=span.status_code == "STATUS_CODE_ERROR",
            message=message,
        )


def _last_exception(span: Span) -> str:
    """Type and message of the last exception that was recorded in a span; "" if none was."""
    for event in reversed(span.events):
        if event["name"] == "exception":
            texts = (event["attributes"].get(key) for key in ("exception.type", "exception.message"))
            return ": ".join(str(text) for text in texts if text)
    return ""


class _Glyphs(NamedTuple):
    branch: str
    last: str
    pipe: str
    ellipsis: str
    error: str
    open: str
    open_bar: str
    ends: str  # bars of 1/8 to 8/8 of a cell, flush left
    starts: str  # the same flush right, as far as they exist


_UNICODE = _Glyphs("├─ ", "└─ ", "│  ", "…", "✗", "…", "░", "▏▎▍▌▋▊▉█", "▕▕▐▐▐▐██")
_ASCII = _Glyphs("|- ", "`- ", "|  ", "...", "x", "~", "-", "=" * 8, "=" * 8)


class LogRow(NamedTuple):
    """What one line shows of a log record."""

    time_ns: int  # instant
    severity: str
    body: str


class LogRows(NamedTuple):
    """Log records of one span, oldest first, and how many there are altogether."""

    rows: Sequence[LogRow]
    total: int


class _Style(NamedTuple):
    color: bool
    ascii_only: bool

    def paint(self, text: str, code: str) -> str:
        return f"\x1b[{code}m{text}\x1b[0m" if self.color and code and text.strip() else text

    def text(self, text: str) -> str:
        """Text of a span, made harmless."""
        if not self.ascii_only:
            return visible(text)
        if text.isascii() and text.isprintable():
            return text
        return "".join(char if " " <= char <= "~" else char.encode("unicode_escape").decode() for char in text)

    def duration(self, ns: int) -> str:
        text = format_duration(ns)
        return text.replace("µ", "u") if self.ascii_only else text


class _Columns(NamedTuple):
    """Widths in cells, and the time axis."""

    name: int
    bar: int
    runner: int  # 0: no span has one
    width: int  # of the whole line
    start_ns: int
    total_ns: int


def format_duration(ns: int) -> str:
    """A length of time to three significant digits: "0µs", "0.250µs", "55.3ms", "516ms", "1.80s", "12.5m".

    Minutes are the largest unit. Negative lengths, after a clock was set back, get a minus sign.
    """
    if ns < 0:
        return f"-{format_duration(-ns)}"
    if ns == 0:
        return "0µs"
    for index, (size, unit) in enumerate(_UNITS):
        limit = _UNITS[index + 1][0] if index + 1 < len(_UNITS) else None
        for decimals in (3, 2, 1, 0) if index == 0 else (2, 1, 0):
            scale = 10**decimals
            rounded = (2 * ns * scale + size) // (2 * size)
            if limit is not None and (rounded >= 1000 or rounded * size >= limit * scale):
                continue  # rounding up may have added a digit or filled the next unit
            if rounded < 1000 or decimals == 0:
                whole, fraction = divmod(rounded, scale)
                return f"{whole}.{fraction:0{decimals}}{unit}" if decimals else f"{whole}{unit}"
    raise AssertionError("minutes have no limit")


def render_waterfall(
    spans: Sequence[SpanRow],
    *,
    width: int = 100,
    color: bool = False,
    max_rows: int | None = 200,
    ascii_only: bool = False,
    depth: int | None = None,
    errors_only: bool = False,
    logs: Mapping[str, LogRows] | None = None,
) -> str:
    """Show spans as a tree, one per line with duration, bar on the common time axis and runner.

    Failed spans are marked and followed by a line with their status message. An open span has a shaded bar to
    the end of the axis, which is the last instant that any span tells of.

    Args:
        spans: Spans of one trace in any order. Spans without a parent among them are roots, in order of their
        start. width: Cells per line; at least 48 are used. color: Use ANSI colours: one per runner, out of
        six, and red for errors. max_rows: Show this many spans at most and tell how many are missing; None
        for all. ascii_only: Use no character outside ASCII. depth: Show so many levels, and count what is below
        them. errors_only: Show only failed spans and those above them. logs: Log records that are shown below their
        span, by span id.

    Returns:
        Lines joined by "\\n", without a final one; no trailing spaces.

    Raises:
        ArgumentError: If max_rows or depth is smaller than 1.
    """
    if max_rows is not None and max_rows < 1:
        raise ArgumentError(f"max_rows must be at least 1 or None, not {max_rows}.")
    if depth is not None and depth < 1:
        raise ArgumentError(f"depth must be at least 1 or None, not {depth}.")
    if not spans:
        return "No spans."
    ordered = sorted(spans, key=lambda row: row.start_ns)
    tree = arrange(
        [row.span_id for row in ordered],
        [row.parent_span_id for row in ordered],
        [row.is_error for row in ordered],
        limit=max_rows,
        max_levels=max_levels(width),
        marks=tree_marks(ascii_only=ascii_only),
        depth=depth,
        errors_only=errors_only,
    )
    end_ns = max(row.start_ns if row.end_ns is None else max(row.start_ns, row.end_ns) for row in ordered)
    return draw_waterfall(
        tree,
        dict(enumerate(ordered)),
        start_ns=ordered[0].start_ns,
        end_ns=end_ns,
        width=width,
        color=color,
        ascii_only=ascii_only,
        logs=logs or {},
    )


def max_levels(width: int) -> int:
    """Levels of the tree whose guides fit into a line of `width` cells."""
    return max(2, max(width, _MIN_WIDTH) // 14)


def tree_marks(*, ascii_only: bool) -> Marks:
    """The guides of the tree."""
    glyphs = _ASCII if ascii_only else _UNICODE
    return Marks(glyphs.branch, glyphs.last, glyphs.pipe)


def draw_waterfall(
    tree: Tree,
    rows: Mapping[int, SpanRow],
    *,
    start_ns: int,
    end_ns: int,
    width: int = 100,
    color: bool = False,
    ascii_only: bool = False,
    logs: Mapping[str, LogRows],
) -> str:
    """Draw what `arrange` has chosen; see `render_waterfall`.

    Args:
        tree: The lines, and what is left out.
        rows: The spans by their index in the tree, at least those of its lines.
        start_ns, end_ns: The time axis, which is that of all spans, also of those that are not shown.
        logs: Log records by span id.
    """
    style = _Style(color, ascii_only)
    glyphs = _ASCII if ascii_only else _UNICODE
    if not tree.lines:
        return style.paint(f"None of the {tree.total:,} spans failed.", _DIM)
    shown = sorted(rows.values(), key=lambda row: row.start_ns)
    columns = _columns(shown, [(line, rows[line.span]) for line in tree.lines], max(width, _MIN_WIDTH), style)
    columns = columns._replace(start_ns=start_ns, total_ns=end_ns - start_ns)
    colors: dict[str, str] = {}
    for row in shown:
        if row.runner and row.runner not in colors:
            colors[row.runner] = _RUNNER_COLORS[len(colors) % len(_RUNNER_COLORS)]
    output = [_header(columns, style)]
    for line in tree.lines:
        row = rows[line.span]
        output += _render(line, row, columns, colors.get(row.runner, ""), style, glyphs)
        output += _log_lines(line, logs.get(row.span_id), columns, style, glyphs)
        if line.span in tree.folded:
            left = tree.folded[line.span]
            spans = "span" if left.count == 1 else "spans"
            note = f"{line.below}{glyphs.ellipsis} {left.count:,} {spans} below{_failed(left)}"
            output.append(style.paint(note, _DIM))
    if tree.cut.count:
        note = f"{glyphs.ellipsis} {tree.cut.count:,} of {tree.total:,} spans not shown{_failed(tree.cut)}"
        output.append(style.paint(note, _DIM))
    if tree.passed:
        note = f"{glyphs.ellipsis} {tree.passed:,} of {tree.total:,} spans not shown: no failure in or below them"
        output.append(style.paint(note, _DIM))
    return "\n".join(line.rstrip() for line in output)


def _failed(left: Left) -> str:
    return f", {left.errors:,} of them failed" if left.errors else ""


def _log_lines(line: Line, logs: LogRows | None, columns: _Columns, style: _Style, glyphs: _Glyphs) -> list[str]:
    """The log records of a span: when, counted from the start of the axis, how severe, what."""
    if logs is None:
        return []
    output = []
    for log in logs.rows:
        head = f"{style.duration(log.time_ns - columns.start_ns):>{_DURATION}} {style.text(log.severity):5} "
        body = cut_end(style.text(log.body), columns.width - len(line.below) - len(head), glyphs.ellipsis)
        guide = style.paint(line.below, _DIM) if style.color else line.below
        output.append(guide + style.paint(head + body, _SEVERITY_COLORS.get(log.severity, "")))
    if logs.total > len(logs.rows):
        note = f"{line.below}{glyphs.ellipsis} {logs.total - len(logs.rows):,} more log records"
        output.append(style.paint(note, _DIM))
    return output


def _columns(shown: Sequence[SpanRow], lines: Sequence[tuple[Line, SpanRow]], width: int, style: _Style) -> _Columns:
    """Widths; the time axis is still to be filled in."""
    runner = _RUNNER if any(row.runner for row in shown) else 0
    fixed = 3 + _DURATION + 2 + (2 + runner if runner else 0)
    wanted = max(len(line.guide) + cell_width(style.text(row.name)) for line, row in lines)
    name = max(_MIN_NAME, min(wanted, width * 9 // 20, width - fixed - _MIN_BAR))
    return _Columns(name, width - fixed - name, runner, width, 0, 0)


def _header(columns: _Columns, style: _Style) -> str:
    """Headings and the labels of the time axis."""
    steps = 1 if columns.total_ns == 0 or columns.bar < 24 else 2 if columns.bar < 40 else 4
    axis = [" "] * columns.bar
    for step in range(steps + 1):
        label = style.duration(columns.total_ns * step // steps) if step else "0"
        at = step * columns.bar // steps
        at -= 0 if step == 0 else len(label) if step == steps else len(label) // 2
        axis[at : at + len(label)] = label
    line = f"{'span':{columns.name + 2}}duration  {''.join(axis)}"
    return style.paint(f"{line}  runner" if columns.runner else line, _BOLD)


def _render(
    line: Line, row: SpanRow, columns: _Columns, runner_color: str, style: _Style, glyphs: _Glyphs
) -> list[str]:
    """The line of a span, and one for its error message."""
    name = cut_middle(style.text(row.name) or "(no name)", columns.name - len(line.guide), glyphs.ellipsis)
    padding = " " * (columns.name - len(line.guide) - cell_width(name))
    mark = glyphs.error if row.is_error else glyphs.open if row.end_ns is None else " "
    duration = "open" if row.end_ns is None else style.duration(row.end_ns - row.start_ns)
    bar = _bar(row, columns, glyphs)
    text = (
        f"{style.paint(line.guide, _DIM)}{style.paint(name, _RED if row.is_error else '')}{padding} "
        f"{style.paint(mark, _RED if row.is_error else _DIM)} {duration:>{_DURATION}}  "
        f"{style.paint(bar, _RED if row.is_error else runner_color)}"
    )
    if columns.runner:
        runner = cut_end(style.text(row.runner[:_RUNNER]), _RUNNER, "")
        text += f"{' ' * (columns.bar - len(bar))}  {style.paint(runner, runner_color)}"
    if not (row.is_error and row.message):
        return [text]
    room = columns.width - len(line.below)
    message = cut_end(style.text(row.message), room, glyphs.ellipsis)
    return [text, style.paint(line.below + message, _DIM)]


def _bar(row: SpanRow, columns: _Columns, glyphs: _Glyphs) -> str:
    """The bar with the blanks before it, exact to an eighth of a cell at its end, a half at its start."""
    eighths = columns.bar * 8
    total = max(1, columns.total_ns)
    start = min((row.start_ns - columns.start_ns) * eighths // total, eighths - 1)
    first, offset = divmod(start, 8)
    if row.end_ns is None:
        return " " * first + glyphs.open_bar * (columns.bar - first)
    end = max(start + 1, -((columns.start_ns - row.end_ns) * eighths // total))
    last, rest = divmod(end - 1, 8)
    if first == last:
        near_left = offset <= 7 - rest
        return " " * first + (glyphs.ends if near_left else glyphs.starts)[end - start - 1]
    full = glyphs.ends[-1] * (last - first - 1)
    return " " * first + glyphs.starts[7 - offset] + full + glyphs.ends[rest]
