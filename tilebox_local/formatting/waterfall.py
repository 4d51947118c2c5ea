"""A trace as a tree with bars, as text for the terminal.

Does not do: reading spans, finding out the terminal's width or whether it shows colours. No text of a span
can steer the terminal.
"""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING, NamedTuple

from tilebox_local.clock import datetime_to_ns
from tilebox_local.data import TASK_FAILED_STATUS
from tilebox_local.errors import ArgumentError
from tilebox_local.formatting.text import cell_width, cut_end, cut_middle, visible

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from tilebox_local.telemetry import Span

__all__ = ["SpanRow", "format_duration", "render_waterfall"]

_MIN_WIDTH = 48
_MIN_NAME, _MIN_BAR, _DURATION = 12, 12, 7
_RUNNER = 8
_RUNNER_COLORS = ("36", "33", "35", "32", "94", "96")  # red is for errors
_RED, _DIM, _BOLD = "31", "2", "1"
_UNITS = ((1_000, "µs"), (1_000_000, "ms"), (1_000_000_000, "s"), (60_000_000_000, "m"))


class SpanRow(NamedTuple):
    """What one line shows of a span. A tuple: a trace may have a million of them."""

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


class _Line(NamedTuple):
    """A span and its place in the tree."""

    row: SpanRow
    guide: str  # in front of the name
    below: str  # in front of the message
    folded: int  # spans below it that are not shown
    folded_failed: int

    def label(self, style: _Style) -> str:
        """The name, and how many spans are folded into the line."""
        name = style.text(self.row.name) or "(no name)"
        if not self.folded:
            return name
        failed = f", {self.folded_failed:,} failed" if self.folded_failed else ""
        return f"{name} (+{self.folded:,}{failed})"


class _Limits(NamedTuple):
    rows: int
    guides: int
    depth: int


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
    max_depth: int | None = None,
    ascii_only: bool = False,
    notes: Mapping[str, Sequence[str]] | None = None,
) -> str:
    """Show spans as a tree, one per line with duration, bar on the common time axis and runner.

    Failed spans are marked and followed by a line with their status message. An open span has a shaded bar to
    the end of the axis, which is the last instant that any span tells of.

    Args:
        spans: Spans of one trace in any order. Spans without a parent among them are roots, in order of their start.
        width: Cells per line; at least 48 are used.
        color: Use ANSI colours: one per runner, out of six, and red for errors.
        max_rows: Show this many spans at most and tell how many are missing; None for all.
        max_depth: Show so many levels; a span whose children are left out says how many spans are below it.
        ascii_only: Use no character outside ASCII.
        notes: Texts to show below a span, one per line, by its id.

    Returns:
        Lines joined by "\\n", without a final one; no trailing spaces.

    Raises:
        ArgumentError: If max_rows or max_depth is smaller than 1.
    """
    for name, limit in (("max_rows", max_rows), ("max_depth", max_depth)):
        if limit is not None and limit < 1:
            raise ArgumentError(f"{name} must be at least 1 or None, not {limit}.")
    if not spans:
        return "No spans."
    style = _Style(color, ascii_only)
    glyphs = _ASCII if ascii_only else _UNICODE
    ordered = sorted(spans, key=lambda row: row.start_ns)
    width = max(width, _MIN_WIDTH)
    limits = _Limits(
        len(ordered) if max_rows is None else max_rows,
        max(2, width // 14),
        len(ordered) if max_depth is None else max_depth,
    )
    lines, hidden = _tree(ordered, limits, glyphs)
    columns = _columns(ordered, lines, width, style)
    colors: dict[str, str] = {}
    for row in ordered:
        if row.runner and row.runner not in colors:
            colors[row.runner] = _RUNNER_COLORS[len(colors) % len(_RUNNER_COLORS)]
    output = [_header(columns, style)]
    for line in lines:
        output += _render(line, columns, colors.get(line.row.runner, ""), style, glyphs)
        if notes is not None:
            output += _notes(line, notes.get(line.row.span_id, ()), columns, style, glyphs)
    if hidden:
        failed = sum(row.is_error for row in hidden)
        note = f"{glyphs.ellipsis} {len(hidden):,} of {len(ordered):,} spans not shown"
        output.append(style.paint(f"{note}, {failed:,} of them failed" if failed else note, _DIM))
    return "\n".join(line.rstrip() for line in output)


def _tree(ordered: Sequence[SpanRow], limits: _Limits, glyphs: _Glyphs) -> tuple[list[_Line], list[SpanRow]]:
    """The first lines in tree order and the spans left out, but for folded ones. Linear in the number of spans.

    Below `limits.guides` levels the guides of the outer ones are dropped.
    """
    ids = {row.span_id for row in ordered}
    children: dict[str | None, list[int]] = defaultdict(list)
    roots = []
    for index, row in enumerate(ordered):
        if row.parent_span_id in ids:
            children[row.parent_span_id].append(index)
        else:
            roots.append(index)
    lines: list[_Line] = []
    hidden: list[SpanRow] = []
    seen = bytearray(len(ordered))

    def take_children(index: int) -> list[int]:
        seen[index] = 1
        # pop: should two spans have the same id, the second one gets no children.
        return [child for child in children.pop(ordered[index].span_id, ()) if not seen[child]]

    def fold(inner: list[int]) -> list[int]:
        below = []
        while inner:
            index = inner.pop()
            below.append(index)
            inner += take_children(index)
        return below

    # What the roots do not reach hangs on cycles; each is entered at its first span.
    for root in (*roots, *range(len(ordered))):
        stack = [] if seen[root] else [(root, "", "", 1)]
        while stack:
            index, guide, below, depth = stack.pop()
            inner = take_children(index)
            folded = fold(inner) if depth >= limits.depth else []
            if len(lines) < limits.rows:
                failed = sum(ordered[other].is_error for other in folded)
                carried = below + (glyphs.pipe if inner else "   ")
                lines.append(_Line(ordered[index], guide, carried, len(folded), failed))
            else:
                hidden.append(ordered[index])
                hidden += [ordered[other] for other in folded]
            below = below[-3 * limits.guides :]
            for position, child in enumerate(reversed(inner)):
                mark, carry = (glyphs.last, "   ") if position == 0 else (glyphs.branch, glyphs.pipe)
                stack.append((child, below + mark, below + carry, depth + 1))
    return lines, hidden


def _columns(ordered: Sequence[SpanRow], lines: Sequence[_Line], width: int, style: _Style) -> _Columns:
    runner = _RUNNER if any(row.runner for row in ordered) else 0
    fixed = 3 + _DURATION + 2 + (2 + runner if runner else 0)
    wanted = max(len(line.guide) + cell_width(line.label(style)) for line in lines)
    name = max(_MIN_NAME, min(wanted, width * 9 // 20, width - fixed - _MIN_BAR))
    start = ordered[0].start_ns
    end = max(row.start_ns if row.end_ns is None else max(row.start_ns, row.end_ns) for row in ordered)
    return _Columns(name, width - fixed - name, runner, width, start, end - start)


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


def _render(line: _Line, columns: _Columns, runner_color: str, style: _Style, glyphs: _Glyphs) -> list[str]:
    """The line of a span, and one for its error message."""
    row = line.row
    name = cut_middle(line.label(style), columns.name - len(line.guide), glyphs.ellipsis)
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


def _notes(line: _Line, notes: Sequence[str], columns: _Columns, style: _Style, glyphs: _Glyphs) -> list[str]:
    """Further lines below the one of a span."""
    room = columns.width - len(line.below)
    return [style.paint(line.below + cut_end(style.text(note), room, glyphs.ellipsis), _DIM) for note in notes]


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
