"""Lines between the rows of one block of a task graph.

All edges with the same set of sources are one `Link`: a line that collects its sources and fans out to its
targets, so a task that depends on 30 others is reached by one line, not 30. In a *channel* (the gap above a
row) a link runs along a bus; where it spans several channels, a *trunk* beside the rows joins its buses.

Coordinates: see `layout`. Corners are given as points; the drawing rounds them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["CORNER", "Link", "Point", "Wire", "lanes", "route"]

CORNER = 7.0  #: radius of a rounded corner, pixels


class Point(NamedTuple):
    """A position; breadth runs along rows, depth across them."""

    breadth: float
    depth: float


class Wire(NamedTuple):
    """A piece of a line."""

    path: tuple[Point, ...]  #: 2 points: straight; 3: with a rounded corner; 4 and curved: a cubic Bézier curve
    dashed: bool = False
    arrow: bool = False  #: arrow head at the last point
    curved: bool = False

    def moved(self, breadth: float, depth: float) -> Wire:
        """The same piece elsewhere."""
        return self._replace(path=tuple(Point(point.breadth + breadth, point.depth + depth) for point in self.path))


@dataclass(slots=True, eq=False)
class Link:
    """All edges from every one of the sources to every one of the targets.

    Row -1 is the box above the first row. A source's channel is the one below its row, a target's the one
    above its row.
    """

    dashed: bool
    sources: list[tuple[int, Point]]  #: row and port of each; the port's depth is relative to the row
    targets: list[tuple[int, float]]  #: row and breadth of each
    trunk: float = 0.0  #: breadth of the trunk

    @property
    def channels(self) -> list[int]:
        """Channels with at least one port, ascending."""
        return sorted({row + 1 for row, _ in self.sources} | {row for row, _ in self.targets})

    @property
    def has_trunk(self) -> bool:
        return len(self.channels) > 1

    def span(self, channel: int) -> tuple[float, float]:
        """First and last breadth of the bus in this channel."""
        ports = [port.breadth for row, port in self.sources if row + 1 == channel]
        ports += [breadth for row, breadth in self.targets if row == channel]
        ports += [self.trunk] if self.has_trunk else []
        return min(ports), max(ports)

    def shift(self, breadth: float) -> None:
        """Move all ports and the trunk."""
        self.sources = [(row, Point(port.breadth + breadth, port.depth)) for row, port in self.sources]
        self.targets = [(row, target + breadth) for row, target in self.targets]
        self.trunk += breadth


def lanes(spans: Sequence[tuple[float, float]]) -> list[int]:
    """The lowest lane for each span such that spans of one lane do not touch, not even at their ends."""
    ends: list[float] = []
    result = [0] * len(spans)
    for index in sorted(range(len(spans)), key=lambda index: spans[index]):
        start, end = spans[index]
        lane = next((lane for lane, taken_to in enumerate(ends) if taken_to < start), len(ends))
        ends[lane:] = [end, *ends[lane + 1 :]]
        result[index] = lane
    return result


def route(link: Link, tracks: dict[int, float], row_depths: Sequence[float]) -> list[Wire]:
    """The pieces of one link.

    Args:
        link: The link, its ports in the coordinates that the pieces shall have.
        tracks: Depth of the link's bus in each of its channels.
        row_depths: Depth of each row's upper edge.
    """
    wires = []
    channels = link.channels
    for channel in channels:
        track = tracks[channel]
        ups = [
            Point(port.breadth, port.depth + (row_depths[row] if row >= 0 else 0.0))
            for row, port in link.sources
            if row + 1 == channel
        ]
        downs = [Point(breadth, row_depths[row]) for row, breadth in link.targets if row == channel]
        arrows = set(downs)
        joins, leaves = bool(ups), bool(downs)
        if leaves and channel > channels[0]:
            ups.append(Point(link.trunk, track - CORNER))
        if joins and channel < channels[-1]:
            downs.append(Point(link.trunk, track + CORNER))
        wires += _bus(ups, downs, arrows, track, link.dashed)
    if link.has_trunk:
        start, end = tracks[channels[0]] + CORNER, tracks[channels[-1]] - CORNER
        wires.append(Wire((Point(link.trunk, start), Point(link.trunk, end)), link.dashed))
    return wires


def _bus(ups: list[Point], downs: list[Point], arrows: set[Point], track: float, dashed: bool) -> list[Wire]:
    """Connect everything above with everything below through a line at depth `track`."""
    places = sorted({point.breadth for point in (*ups, *downs)})
    low, high = places[0], places[-1]
    if high - low < 1:
        return [Wire((ups[0], Point(ups[0].breadth, down.depth)), dashed, down in arrows) for down in downs]
    # Lines bend towards the hub, so that one sees which way they merge and part.
    hub = ups[0].breadth if len(ups) == 1 else downs[0].breadth if len(downs) == 1 else (low + high) / 2
    bends = {point: _bend(point, track, hub, low, high) for point in (*ups, *downs)}
    wires = []
    drawn: set[Point] = set()
    above = next((point for point in ups if point.breadth == hub), None)
    below = next((point for point in downs if point.breadth == hub and point in arrows), None)
    if above and below:
        # Straight through the hub; where the hub turns, the end that all edges share joins the bus as well.
        wires.append(Wire((above, below), dashed, arrow=True))
        drawn = {above, below} if low < hub < high else {below} if len(ups) == 1 else {above}
    wires += [Wire(bends[point], dashed) for point in ups if point not in drawn]
    wires += [Wire(bends[point][::-1], dashed, point in arrows) for point in downs if point not in drawn]
    ends = {path[0].breadth: path[-1].breadth for path in bends.values()}
    wires.append(Wire((Point(ends[low], track), Point(ends[high], track)), dashed))
    return wires


def _bend(port: Point, track: float, hub: float, low: float, high: float) -> tuple[Point, ...]:
    """From the port to the bus, with a corner towards the hub; the hub turns only at an end of the bus."""
    if port.breadth == hub:
        reach = CORNER if hub == low else -CORNER if hub == high else 0.0
    else:
        reach = max(-CORNER, min(CORNER, (hub - port.breadth) / 2))
    at_track = Point(port.breadth, track)
    return (port, at_track, Point(port.breadth + reach, track)) if reach else (port, at_track)
