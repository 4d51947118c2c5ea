"""The order of a task graph: who lies inside whom, in which layer, at which place in the layer.

Subtasks of one parent form layers by longest path over their dependencies; a dependency between subtasks of
different parents counts for the two ancestors that are siblings. Each layer is ordered by a few barycenter
sweeps, starting from the order the tasks came in.

Does not do: coordinates, see `layout`. Any input gives an order: an edge that would close a cycle is dropped
from the layering and reported instead.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from tilebox_local.formatting.routing import Wire

__all__ = ["Block", "LooseEdge", "arrange"]

_SWEEPS = 4

LooseEdge: TypeAlias = tuple[int, int, bool]
"""(source, target, is a dependency) of an edge that the layering leaves out and that is drawn as a curve."""


@dataclass(slots=True, eq=False)
class Block:
    """A task's box together with the blocks of its subtasks. `layout` sets the fields of the second group."""

    key: int | None  # None: the invisible parent of all roots
    size: tuple[float, float]  # natural (breadth, depth) of the own box
    children: list[Block] = field(default_factory=list)
    layers: list[list[Block]] = field(default_factory=list)
    sources: frozenset[Block] = frozenset()  # the siblings this one depends on
    is_source: bool = False
    # Set by _measure, relative to the parent's block except for what is inside this block:
    box: tuple[float, float] = (0.0, 0.0)
    box_at: float = 0.0
    breadth: float = 0.0
    depth: float = 0.0
    row: int = 0
    at: tuple[float, float] = (0.0, 0.0)
    wires: list[Wire] = field(default_factory=list)

    @property
    def center(self) -> float:
        """Breadth of the own box's middle, in the parent's block."""
        return self.at[0] + self.box_at + self.box[0] / 2

    @property
    def is_leaf(self) -> bool:
        return not self.children


def arrange(
    sizes: Mapping[int, tuple[float, float]],
    parents: Mapping[int, int | None],
    dependencies: Mapping[int, Sequence[int]],
) -> tuple[Block, list[LooseEdge]]:
    """Nest and layer the tasks; see `layout.place` for the arguments.

    Returns:
        The invisible parent of all roots, and the edges that are not part of the layering.
    """
    blocks = {key: Block(key, size) for key, size in sizes.items()}
    ancestors, loose = _ancestry(blocks, parents)
    root = Block(None, (0.0, 0.0))
    for key, block in blocks.items():
        chain = ancestors[key]
        (blocks[chain[-2]] if len(chain) > 1 else root).children.append(block)
    before, edges = _precedence(blocks, ancestors, dependencies)
    everything = (root, *blocks.values())
    for block in everything:
        block.layers = _layers(block.children, before)
    for source, target in edges:
        if ancestors[source][:-1] == ancestors[target][:-1] and blocks[source] in before[blocks[target]]:
            blocks[target].sources |= {blocks[source]}
            blocks[source].is_source = True
        else:
            loose.append((source, target, True))
    for block in everything:
        _reduce_crossings(block.layers)
    return root, loose


def _ancestry(keys: Iterable[int], parents: Mapping[int, int | None]) -> tuple[dict[int, list[int]], list[LooseEdge]]:
    """Path from the root to each task (inclusive), and the parent edges that closed a cycle."""
    known = set(keys)
    paths: dict[int, list[int]] = {}
    closing = []
    for key in keys:
        pending: list[int] = []
        current: int | None = key
        while current is not None and current in known and current not in paths:
            if current in pending:  # the first member of the cycle becomes a root
                loop = pending[pending.index(current) :]
                closing.append((loop[1 % len(loop)], current, False))
                del pending[-len(loop) :]
                paths[current] = [current]
                pending += loop[1:]
                break
            pending.append(current)
            current = parents.get(current)
        for member in reversed(pending):
            parent = parents.get(member)
            paths[member] = [*(paths.get(parent, []) if parent is not None else []), member]
    # A task that is its own parent has no edge to draw.
    return paths, [edge for edge in closing if edge[0] != edge[1]]


def _precedence(
    blocks: Mapping[int, Block],
    ancestors: Mapping[int, list[int]],
    dependencies: Mapping[int, Sequence[int]],
) -> tuple[dict[Block, set[Block]], list[tuple[int, int]]]:
    """For each block the siblings that have to lie above it, and all dependencies between known tasks."""
    before: dict[Block, set[Block]] = defaultdict(set)
    edges: list[tuple[int, int]] = []
    for target in blocks:
        for source in dict.fromkeys(dependencies.get(target, ())):
            if source not in blocks or source == target:
                continue
            edges.append((source, target))
            for one, other in zip(ancestors[source], ancestors[target], strict=False):
                if one != other:  # the children of the closest common ancestor
                    before[blocks[other]].add(blocks[one])
                    break
    return before, edges


def _layers(siblings: Sequence[Block], before: dict[Block, set[Block]]) -> list[list[Block]]:
    """Longest-path layers. If only cycles are left, the edges into one member are dropped from `before`."""
    depth: dict[Block, int] = {}
    waiting = {block: set(before[block]) for block in siblings}
    while waiting:
        ready = [block for block, sources in waiting.items() if not sources - depth.keys()]
        if not ready:
            seen: list[Block] = []
            current = next(iter(waiting))
            while current not in seen:
                seen.append(current)
                current = next(source for source in waiting if source in waiting[current])
            waiting[current] &= depth.keys()
            before[current] &= depth.keys()
            continue
        for block in ready:
            depth[block] = max((depth[source] + 1 for source in waiting.pop(block)), default=0)
    result: list[list[Block]] = [[] for _ in range(max(depth.values(), default=-1) + 1)]
    for block in siblings:
        result[depth[block]].append(block)
    return result


def _reduce_crossings(layers: list[list[Block]]) -> None:
    """Move siblings towards the mean position of their neighbours, a few times down and up."""
    if len(layers) < 2:
        return
    neighbours: dict[Block, list[Block]] = defaultdict(list)
    for layer in layers:
        for block in layer:
            for source in sorted(block.sources, key=lambda source: source.key or 0):
                neighbours[block].append(source)
                neighbours[source].append(block)
    position: dict[Block, float] = {}

    def settle(layer: list[Block]) -> None:
        for index, block in enumerate(layer):
            position[block] = (index + 0.5) / len(layer)

    for layer in layers:
        settle(layer)
    for sweep in range(_SWEEPS):
        for layer in layers if sweep % 2 == 0 else reversed(layers):
            wanted = {
                block: sum(position[other] for other in neighbours[block]) / len(neighbours[block])
                if neighbours[block]
                else position[block]
                for block in layer
            }
            layer.sort(key=lambda block: round(wanted[block], 6))
            settle(layer)
