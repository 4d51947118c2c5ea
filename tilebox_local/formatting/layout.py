"""Where the boxes and lines of a task graph go.

A subtask's block (its own box, above the blocks of its subtasks) lies inside its parent's block; within it,
the layers of `layering` are wrapped into rows. So boxes cannot overlap, every parent lies above its subtasks,
and what depends on a task lies below the task's whole subtree, which is also what it waits for.

Coordinates are abstract: *breadth* runs along a row, *depth* from parents to subtasks. The caller turns them
into x and y for one of the four directions. All lengths are in pixels.

Does not do: text, colours or SVG.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from tilebox_local.formatting.layering import Block, arrange
from tilebox_local.formatting.routing import Link, Point, Wire, lanes, route

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

__all__ = ["Box", "Placement", "place"]

_SIBLING_GAP = 24.0
_ROW_GAP = 28.0  # between rows with no line between them
_GUTTER = 22.0  # left of wrapped rows, for the line to the subtasks
_EXIT = 20.0  # right of a subtree, for the line to what depends on it
_LANE = 10.0
_PAD_OUT, _PAD_IN = 16.0, 22.0  # from the row above to the first line, from the last line to the row below
_WRAP_LIMITS = (float("inf"), 3200.0, 2400.0, 1800.0, 1350.0, 1000.0, 750.0)


class Box(NamedTuple):
    """Rectangle of one task."""

    breadth: float  #: start along the row
    depth: float  #: start across the rows
    breadth_size: float
    depth_size: float


@dataclass(frozen=True, slots=True)
class Placement:
    """The finished layout: boxes by key, lines in drawing order, and the size of everything."""

    boxes: dict[int, Box]
    wires: list[Wire]
    breadth: float
    depth: float


def place(
    sizes: Mapping[int, tuple[float, float]],
    parents: Mapping[int, int | None],
    dependencies: Mapping[int, Sequence[int]],
    *,
    screen: tuple[float, float],
    unify: int = 0,
) -> Placement:
    """Lay out a task graph.

    Args:
        sizes: (breadth, depth) of each task's box; the iteration order is the order among siblings.
        parents: Parent of each task; None or a key that is not in `sizes` makes it a root.
        dependencies: Keys that each task depends on.
        screen: (breadth, depth) that the picture should fit; wide rows are wrapped if that brings it closer.
        unify: Which of the two sizes subtasks without subtasks share within a layer: 0 breadth, 1 depth.

    Returns:
        The same placement for the same arguments.
    """
    root, curves = arrange(sizes, parents, dependencies)
    best = min(_WRAP_LIMITS, key=lambda limit: _misfit(root, limit, unify, screen))
    _measure(root, best, unify)
    boxes: dict[int, Box] = {}
    wires: list[Wire] = []
    _collect(root, 0.0, 0.0, boxes, wires)
    wires.extend(_curve(boxes[source], boxes[target], dashed) for source, target, dashed in curves)
    wires.sort(key=lambda wire: wire.dashed)
    return Placement(boxes, wires, root.breadth, root.depth)


def _misfit(root: Block, limit: float, unify: int, screen: tuple[float, float]) -> float:
    """By how much the picture has to shrink to fit the screen, 1.0 if it fits."""
    _measure(root, limit, unify)
    return round(max(1.0, root.breadth / screen[0], root.depth / screen[1]), 3)


def _measure(block: Block, limit: float, unify: int) -> None:
    """Set sizes and relative positions of everything in the block."""
    block.box = block.size
    for child in block.children:
        _measure(child, limit, unify)
    for layer in block.layers:
        _unify(layer, unify)
    rows = [row for layer in block.layers for row in _wrap(layer, limit)]
    for index, row in enumerate(rows):
        for child in row:
            child.row = index
    inner = _align(block.layers)
    # The own box is above the middle of the subtasks, or straight above the first if that has its own row.
    middle = rows[0][0].center if rows and len(rows[0]) == 1 else inner / 2
    links = _links(block, middle)
    trunks = [link for link in links if link.dashed and link.has_trunk]
    columns = lanes([(link.channels[0], link.channels[-1]) for link in trunks])
    for link, column in zip(trunks, columns, strict=True):
        link.trunk = inner + (column + 1) * _LANE
    half = block.box[0] / 2
    left = max(half - middle, _GUTTER if links and links[-1].has_trunk and not links[-1].dashed else 0.0)
    right = max(half - (inner - middle), (max(columns) + 1.5) * _LANE if columns else 0.0)
    for child in block.children:
        child.at = (child.at[0] + left, 0.0)
    for link in links:
        link.shift(left)
    block.box_at = left + middle - half
    block.breadth = left + inner + right
    block.depth, block.wires = _stack(block, rows, links)
    if block.is_source and block.children:
        block.breadth += _EXIT
        side, out = block.box[1] / 2, block.breadth - _EXIT / 2
        corner = (Point(block.box_at + block.box[0], side), Point(out, side), Point(out, block.depth))
        block.wires.append(Wire(corner, dashed=True))


def _links(block: Block, middle: float) -> list[Link]:
    """The dependencies among the children, then the block's own edges to them from its box's middle."""
    targets: dict[frozenset[Block], list[Block]] = defaultdict(list)
    uses: dict[Block, int] = defaultdict(int)
    for layer in block.layers:
        for child in layer:
            if child.sources:
                targets[child.sources].append(child)
    for sources in targets:
        for source in sources:
            uses[source] += 1
    links = []
    used: dict[Block, int] = defaultdict(int)
    for sources, dependants in targets.items():
        ports = []
        for source in sorted(sources, key=lambda source: (source.row, source.at)):
            if source.is_leaf:
                # Several links leave a box side by side.
                spread = min(_LANE, source.box[0] / (uses[source] + 1))
                port = source.center + (used[source] - (uses[source] - 1) / 2) * spread
                used[source] += 1
            else:
                port = source.at[0] + source.breadth - _EXIT / 2
            ports.append((source.row, Point(port, source.depth)))
        links.append(Link(True, ports, [(child.row, child.center) for child in dependants]))
    if block.key is not None and block.children:
        own = Point(middle, block.box[1])
        entries = [
            (child.row, child.center - (min(_GUTTER, child.box[0] / 4) if child.sources else 0.0))
            for layer in block.layers
            for child in layer
        ]
        links.append(Link(False, [(-1, own)], entries, -_GUTTER / 2))
    return links


def _stack(block: Block, rows: list[list[Block]], links: list[Link]) -> tuple[float, list[Wire]]:
    """Set the children's depths; return the depth of the block and the lines between its rows."""
    at = block.box[1]
    row_depths: list[float] = []
    tracks: dict[Link, dict[int, float]] = {link: {} for link in links}
    by_channel: dict[int, list[Link]] = defaultdict(list)
    for link in links:
        for channel in link.channels:
            by_channel[channel].append(link)
    for index, row in enumerate(rows):
        here = by_channel[index]
        dashed = [link for link in here if link.dashed]
        order = lanes([link.span(index) for link in dashed])
        last = max(order, default=-1)
        for link in here:  # a block's own line runs closest to its subtasks: it crosses no line that ends above it
            lane = order[dashed.index(link)] if link.dashed else last + 1
            last = max(last, lane)
            tracks[link][index] = at + _PAD_OUT + lane * _LANE
        if here:
            at += _PAD_OUT + last * _LANE + _PAD_IN
        elif index:
            at += _ROW_GAP
        row_depths.append(at)
        for child in row:
            child.at = (child.at[0], at)
        at += max(child.depth for child in row)
    return at, [wire for link in links for wire in route(link, tracks[link], row_depths)]


def _unify(layer: list[Block], axis: int) -> None:
    """Give all leaves of the layer the largest breadth (axis 0) or depth (axis 1) among them."""
    leaves = [block for block in layer if block.is_leaf]
    largest = max((block.size[axis] for block in leaves), default=0.0)
    for block in leaves:
        block.box = (largest, block.size[1]) if axis == 0 else (block.size[0], largest)
        block.breadth, block.depth = block.box


def _cell(layer: list[Block]) -> float:
    """Breadth that all blocks of the layer get, to form columns; 0.0 if they differ too much for that."""
    breadths = [block.breadth for block in layer]
    return max(breadths) if max(breadths) <= 1.3 * min(breadths) else 0.0


def _wrap(layer: list[Block], limit: float) -> list[list[Block]]:
    """Rows of one layer, none broader than the limit unless one block alone is, as even as possible."""
    cell = _cell(layer)

    def fill(limit: float) -> list[list[Block]]:
        rows: list[list[Block]] = [[]]
        used = -_SIBLING_GAP
        for block in layer:
            used += _SIBLING_GAP + (cell or block.breadth)
            if used > limit and rows[-1]:
                rows.append([])
                used = cell or block.breadth
            rows[-1].append(block)
        return rows

    rows = fill(limit)
    if len(rows) == 1:
        return rows
    low, high = int(limit / 2), int(limit)
    while low < high:
        middle = (low + high) // 2
        if len(fill(middle)) > len(rows):
            low = middle + 1
        else:
            high = middle
    return fill(high)


def _align(layers: list[list[Block]]) -> float:
    """Place blocks side by side in their rows, rows of a layer flush, layers centred. Return the breadth."""
    widths = []
    for layer in layers:
        at, row, width, cell = 0.0, None, 0.0, _cell(layer)
        for block in layer:
            at = at + _SIBLING_GAP if block.row == row else 0.0
            row = block.row
            block.at = (at + max(0.0, cell - block.breadth) / 2, 0.0)
            at += cell or block.breadth
            width = max(width, at)
        widths.append(width)
    inner = max(widths, default=0.0)
    for layer, width in zip(layers, widths, strict=True):
        for block in layer:
            block.at = (block.at[0] + (inner - width) / 2, 0.0)
    return inner


def _collect(block: Block, breadth: float, depth: float, boxes: dict[int, Box], wires: list[Wire]) -> None:
    """Turn relative positions into absolute ones."""
    breadth, depth = breadth + block.at[0], depth + block.at[1]
    if block.key is not None:
        boxes[block.key] = Box(breadth + block.box_at, depth, *block.box)
    wires.extend(wire.moved(breadth, depth) for wire in block.wires)
    for child in block.children:
        _collect(child, breadth, depth, boxes, wires)


def _curve(source: Box, target: Box, dashed: bool) -> Wire:
    """An edge outside the layering, from the source's far side to the target's near side."""
    start = Point(source.breadth + source.breadth_size / 2, source.depth + source.depth_size)
    end = Point(target.breadth + target.breadth_size / 2, target.depth)
    pull = max(40.0, abs(end.depth - start.depth) / 2)
    # Back to an earlier row: around the boxes, not behind them.
    bulge = 2 / 3 * max(source.breadth_size, target.breadth_size) + 16 if end.depth < start.depth else 0.0
    path = (
        start,
        Point(start.breadth + bulge, start.depth + pull),
        Point(end.breadth + bulge, end.depth - pull),
        end,
    )
    return Wire(path, dashed, arrow=True, curved=True)
