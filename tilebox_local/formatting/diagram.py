"""The task graph of a job as an SVG picture.

Does not do: reading jobs, showing pictures. The SVG stands alone: no scripts, style sheets, ids or external
references, so several can be inlined into one page. Equal arguments give equal bytes.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from html import escape
from random import Random
from typing import TYPE_CHECKING, NamedTuple

from tilebox_local.data import TaskState
from tilebox_local.errors import ArgumentError
from tilebox_local.formatting.layout import Box, place
from tilebox_local.formatting.routing import CORNER
from tilebox_local.formatting.text import cell_width, cut_end, visible, wrap

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from tilebox_local.formatting.routing import Wire

__all__ = ["MAX_DIAGRAM_TASKS", "STATE_STYLES", "StateStyle", "TaskNode", "render_task_graph"]

MAX_DIAGRAM_TASKS = 200
_DIRECTIONS = ("", "up", "down", "right", "left")
_LAYOUTS = ("", "dagre", "elk")

_PAGE = "#FCF9FA"
_INK, _MUTED, _SOLID, _DASHED = "#1F2328", "#57606A", "#6E7781", "#8250DF"
_FONT = "ui-monospace, SFMono-Regular, Menlo, Consolas, 'DejaVu Sans Mono', monospace"
_FONT_SIZE = 12
_CELL = 7.3  # advance of one monospace character at that size
_LINE = 16.0
_MAX_CELLS, _MAX_LINES = 28, 4
_PAD_X, _PAD_Y, _MIN_WIDTH, _MARGIN = 12.0, 9.0, 72.0, 24.0
_SCREEN = (1400.0, 900.0)  # width and height beyond which wide rows are wrapped
_MIN_PAGE_WIDTH = 320.0


class StateStyle(NamedTuple):
    """Look of a task in one state."""

    label: str
    fill: str
    stroke: str
    dashed: bool = False


STATE_STYLES = {
    TaskState.UNSPECIFIED: StateStyle("unspecified", "#F0F0F0", "#8C959F"),
    TaskState.QUEUED: StateStyle("queued", "#FFF0F5", "#B5768F"),
    TaskState.RUNNING: StateStyle("running", "#AFEEEE", "#2B8A8A"),
    TaskState.COMPUTED: StateStyle("computed", "#F0FFF0", "#4F9A5B"),
    TaskState.FAILED: StateStyle("failed", "#FA8072", "#A4262C"),
    TaskState.SKIPPED: StateStyle("skipped", "#fcf3ae", "#A68B1F"),
    TaskState.FAILED_OPTIONAL: StateStyle("failed (optional)", "#FA8072", "#A4262C", dashed=True),
}


@dataclass(frozen=True)
class TaskNode:
    """A task to draw. Keys in `parent` and `depends_on` that belong to no task of the diagram are ignored."""

    key: int
    label: str
    state: TaskState
    parent: int | None
    depends_on: tuple[int, ...]


class _View(NamedTuple):
    """Turns abstract coordinates into x and y."""

    direction: str
    depth: float  # of the whole graph
    x: float  # where the graph's upper left corner goes
    y: float

    def point(self, breadth: float, depth: float) -> tuple[float, float]:
        if self.direction in {"up", "left"}:
            depth = self.depth - depth
        across = self.direction in {"left", "right"}
        return (self.x + depth, self.y + breadth) if across else (self.x + breadth, self.y + depth)

    def corner(self, box: Box) -> tuple[float, float]:
        """Upper left corner of a box."""
        (x1, y1) = self.point(box.breadth, box.depth)
        (x2, y2) = self.point(box.breadth + box.breadth_size, box.depth + box.depth_size)
        return min(x1, x2), min(y1, y2)


def render_task_graph(
    nodes: Sequence[TaskNode],
    *,
    title: str | None,
    direction: str = "down",
    layout: str = "dagre",
    sketchy: bool = True,
) -> str:
    """Draw tasks as boxes, coloured by state, with a line to each subtask and a dashed one to each dependant.

    Tasks that depend on the same tasks share one line. Labels are cut after four lines; a tooltip has the
    rest.

    Args:
        nodes: At most `MAX_DIAGRAM_TASKS` tasks with different keys, siblings in the order of submission.
        title: Headline, normally the job's name; None for none.
        direction: Where subtasks go: "up", "down", "right" or "left"; "" means "down".
        layout: "dagre", "elk" or "". Accepted for compatibility: all of them use the layout of this package.
        sketchy: Draw outlines as if by hand. The same task always gets the same strokes.

    Returns:
        A complete SVG document without XML declaration; write it as UTF-8.

    Raises:
        ArgumentError: If direction or layout is unknown, a key occurs twice or there are too many tasks.
    """
    _check("direction", direction, _DIRECTIONS)
    _check("layout", layout, _LAYOUTS)
    if len(nodes) > MAX_DIAGRAM_TASKS:
        raise ArgumentError(
            f"A diagram can show at most {MAX_DIAGRAM_TASKS} tasks, this job has {len(nodes):,}.",
            hint="Look at its trace instead.",
        )
    if len({node.key for node in nodes}) < len(nodes):
        raise ArgumentError("Two tasks of a diagram have the same key.")
    across = direction in {"left", "right"}
    labels = {
        node.key: wrap(visible(node.label, keep_newlines=True), _MAX_CELLS, _MAX_LINES) or ["(no label)"]
        for node in nodes
    }
    sizes = {key: _box_size(lines) for key, lines in labels.items()}
    placement = place(
        {key: (height, width) if across else (width, height) for key, (width, height) in sizes.items()},
        {node.key: node.parent for node in nodes},
        {node.key: node.depends_on for node in nodes},
        screen=_SCREEN[::-1] if across else _SCREEN,
        unify=1 if across else 0,
    )
    graph_width, graph_height = placement.breadth, placement.depth
    if across:
        graph_width, graph_height = graph_height, graph_width
    width = max(_MIN_PAGE_WIDTH, graph_width + 2 * _MARGIN)
    header, top = _header(nodes, title, width, has_dependencies=any(wire.dashed for wire in placement.wires))
    view = _View(direction, placement.depth, (width - graph_width) / 2, top)
    height = top + graph_height + _MARGIN
    body = [*header, *_lines(placement.wires, view)]
    for node in nodes:
        body += _task(node, labels[node.key], placement.boxes[node.key], view, across, sketchy)
    return _page(title, width, height, body)


def _check(name: str, value: str, accepted: tuple[str, ...]) -> None:
    if value not in accepted:
        names = ", ".join(f'"{item}"' for item in accepted)
        raise ArgumentError(f"Unknown {name} {value!r}; accepted are {names}.")


def _box_size(lines: list[str]) -> tuple[float, float]:
    """(width, height) of a box for these lines of text."""
    cells = max(map(cell_width, lines), default=0)
    return max(_MIN_WIDTH, round(cells * _CELL) + 2 * _PAD_X), max(1, len(lines)) * _LINE + 2 * _PAD_Y


def _page(title: str | None, width: float, height: float, body: list[str]) -> str:
    size = f'width="{_n(width)}" height="{_n(height)}" viewBox="0 0 {_n(width)} {_n(height)}"'
    name = escape(visible(title)) if title else "Task graph"
    look = f'style="max-width:100%;height:auto" font-family="{_FONT}" font-size="{_FONT_SIZE}" fill="{_INK}"'
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" {size} role="img" {look}>',
            f"<title>{name}</title>",
            f'<rect width="{_n(width)}" height="{_n(height)}" rx="8" fill="{_PAGE}"/>',
            *body,
            "</svg>\n",
        ]
    )


def _n(value: float) -> str:
    """A coordinate with at most one decimal."""
    return f"{round(value, 1) + 0.0:.1f}".removesuffix(".0")


def _text(x: float, y: float, text: str, attributes: str = "") -> str:
    return f'<text x="{_n(x)}" y="{_n(y)}"{attributes}>{escape(text)}</text>'


def _header(
    nodes: Sequence[TaskNode], title: str | None, width: float, *, has_dependencies: bool
) -> tuple[list[str], float]:
    """Title and legend, and the y below them where the graph begins."""
    parts: list[str] = []
    y = _MARGIN
    if title:
        y += 12
        cells = int((width - 2 * _MARGIN) / (_CELL * 16 / _FONT_SIZE))
        parts.append(_text(_MARGIN, y, cut_end(visible(title), cells), ' font-size="16" font-weight="bold"'))
        y += 14
    if not nodes:
        parts.append(_text(_MARGIN, y + 12, "This job has no tasks.", f' fill="{_MUTED}"'))
        return parts, y + 12
    x = _MARGIN
    counts = Counter(node.state for node in nodes)
    entries: list[tuple[str, Callable[[float, float], str]]] = [
        (f"{counts[state]} {style.label}", _swatch(style)) for state, style in STATE_STYLES.items() if counts[state]
    ]
    keys = {node.key for node in nodes}
    if any(node.parent in keys for node in nodes):
        entries.append(("subtask", _sample(dashed=False)))
    if has_dependencies:
        entries.append(("depends on", _sample(dashed=True)))
    y += 6
    for label, mark in entries:
        needed = 20 + cell_width(label) * _CELL
        if x > _MARGIN and x + needed > width - _MARGIN:
            x, y = _MARGIN, y + 20
        parts += [mark(x, y), _text(x + 20, y + 4, label, f' fill="{_MUTED}"')]
        x += needed + 20
    return parts, y + 34


def _swatch(style: StateStyle) -> Callable[[float, float], str]:
    dash = ' stroke-dasharray="3 2"' if style.dashed else ""
    look = f'rx="3" fill="{style.fill}" stroke="{style.stroke}"{dash}'
    return lambda x, y: f'<rect x="{_n(x)}" y="{_n(y - 6)}" width="13" height="12" {look}/>'


def _sample(*, dashed: bool) -> Callable[[float, float], str]:
    look = f'stroke="{_DASHED}" stroke-dasharray="4 3"' if dashed else f'stroke="{_SOLID}"'
    return lambda x, y: f'<path d="M{_n(x)} {_n(y)}h14" {look} stroke-width="1.5" fill="none"/>'


def _lines(wires: Sequence[Wire], view: _View) -> list[str]:
    """All edges, the solid ones first, each kind as one path plus its arrow heads."""
    parts = []
    for dashed in (False, True):
        group = [wire for wire in wires if wire.dashed is dashed]
        if not group:
            continue
        color = _DASHED if dashed else _SOLID
        dash = ' stroke-dasharray="4 3"' if dashed else ""
        strokes = "".join(_stroke(wire, view) for wire in group)
        heads = "".join(_arrow(wire, view) for wire in group if wire.arrow)
        parts.append(f'<path d="{strokes}" fill="none" stroke="{color}" stroke-width="1.5"{dash}/>')
        parts.append(f'<path d="{heads}" fill="{color}"/>')
    return parts


def _stroke(wire: Wire, view: _View) -> str:
    points = [view.point(*point) for point in wire.path]
    texts = [f"{_n(x)} {_n(y)}" for x, y in points]
    if wire.curved:
        return f"M{texts[0]}C{' '.join(texts[1:])}"
    if len(points) == 2:
        return f"M{texts[0]}L{texts[1]}"
    (x1, y1), (x2, y2), (x3, y3) = points
    radius = min(CORNER, abs(x2 - x1) + abs(y2 - y1), abs(x3 - x2) + abs(y3 - y2))

    def toward(x: float, y: float) -> str:
        length = abs(x - x2) + abs(y - y2) or 1.0
        return f"{_n(x2 + (x - x2) / length * radius)} {_n(y2 + (y - y2) / length * radius)}"

    return f"M{texts[0]}L{toward(x1, y1)}Q{texts[1]} {toward(x3, y3)}L{texts[2]}"


def _arrow(wire: Wire, view: _View) -> str:
    """A triangle at the end of the line, which always arrives along the depth axis."""
    tip = wire.path[-1]
    corners = [tip, (tip.breadth - 4, tip.depth - 8), (tip.breadth + 4, tip.depth - 8)]
    (a, b, c) = [f"{_n(x)} {_n(y)}" for x, y in (view.point(*corner) for corner in corners)]
    return f"M{a}L{b}L{c}Z"


def _task(node: TaskNode, lines: list[str], box: Box, view: _View, across: bool, sketchy: bool) -> list[str]:
    """One box with its text and tooltip."""
    style = STATE_STYLES[node.state]
    x, y = view.corner(box)
    width, height = (box.depth_size, box.breadth_size) if across else (box.breadth_size, box.depth_size)
    outline = f'stroke="{style.stroke}"' + (' stroke-dasharray="5 3"' if style.dashed else "")
    if sketchy:
        random = Random(node.key)  # noqa: S311 (drawing, not cryptography)
        paths = [_sketch(random, x, y, width, height) for _ in range(2)]
        shapes = [
            f'<path d="{paths[0]}" fill="{style.fill}" {outline} stroke-width="1.3"/>',
            f'<path d="{paths[1]}" fill="none" {outline} stroke-opacity="0.55"/>',
        ]
    else:
        at = f'x="{_n(x)}" y="{_n(y)}" width="{_n(width)}" height="{_n(height)}"'
        shapes = [f'<rect {at} rx="6" fill="{style.fill}" {outline} stroke-width="1.3"/>']
    first = y + height / 2 - (len(lines) - 1) * _LINE / 2 + 4
    return [
        f"<g><title>{escape(visible(node.label, keep_newlines=True))}\n\nState: {style.label}</title>",
        *shapes,
        *(
            _text(x + width / 2, first + index * _LINE, line, ' text-anchor="middle"')
            for index, line in enumerate(lines)
        ),
        "</g>",
    ]


def _sketch(random: Random, x: float, y: float, width: float, height: float) -> str:
    """A closed outline of four slightly bent strokes that miss the corners by up to 2 pixels."""

    def near(px: float, py: float, wobble: float = 1.6) -> tuple[float, float]:
        return px + random.uniform(-wobble, wobble), py + random.uniform(-wobble, wobble)

    corners = [near(x, y), near(x + width, y), near(x + width, y + height), near(x, y + height)]
    path = f"M{_n(corners[0][0])} {_n(corners[0][1])}"
    for (x1, y1), (x2, y2) in zip(corners, [*corners[1:], corners[0]], strict=True):
        bend = near((x1 + x2) / 2, (y1 + y2) / 2)
        path += f"Q{_n(bend[0])} {_n(bend[1])} {_n(x2)} {_n(y2)}"
    return path + "Z"
