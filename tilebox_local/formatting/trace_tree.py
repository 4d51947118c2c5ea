"""Which spans of a trace are shown, in which order, and what is left out. Does not do: text, except for the guides.

Works on columns, so that a trace of hundreds of thousands of spans costs no object per span.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Hashable, Sequence

__all__ = ["Left", "Line", "Marks", "Tree", "arrange"]


class Marks(NamedTuple):
    """What leads from a span to those below it."""

    branch: str
    last: str
    pipe: str


class Line(NamedTuple):
    """A span that is shown, and its place in the tree."""

    span: int  # its index in the columns
    guide: str  # in front of the name
    below: str  # in front of what follows it


@dataclass
class Left:
    """Spans that are not shown."""

    count: int = 0
    errors: int = 0


@dataclass
class Tree:
    """What is shown of a trace."""

    lines: list[Line]
    total: int
    folded: dict[int, Left] = field(default_factory=dict)  #: below a line, by its index: deeper than was asked for
    passed: int = 0  #: without a failure in or below them, if only failures were asked for
    cut: Left = field(default_factory=Left)  #: beyond the limit


def arrange(
    ids: Sequence[Hashable],
    parents: Sequence[Hashable],
    errors: Sequence[object],
    *,
    limit: int | None,
    max_levels: int,
    marks: Marks,
    depth: int | None = None,
    errors_only: bool = False,
) -> Tree:
    """Choose what is shown: the first `limit` lines in tree order. Linear in the number of spans.

    Args:
        ids, parents, errors: One entry per span, ordered by start: its id, its parent's, and whether it failed. Spans
            without a parent among them are roots.
        limit: Lines at most; None: all.
        max_levels: Below so many levels the guides of the outer ones are dropped.
        depth: Levels that are shown; None: all.
        errors_only: Show only what failed, and what is above it.
    """
    total = len(ids)
    known = set(ids)
    children: dict[Hashable, list[int]] = defaultdict(list)
    roots = []
    for index, parent in enumerate(parents):
        if parent in known:
            children[parent].append(index)
        else:
            roots.append(index)
    kept = _with_ancestors(ids, parents, errors) if errors_only else None
    tree = Tree([], total, passed=0 if kept is None else total - sum(kept))
    seen = bytearray(total)
    # What the roots do not reach hangs on cycles; each is entered at its first span.
    for root in (*roots, *range(total)):
        stack = [] if seen[root] or not (kept is None or kept[root]) else [(root, "", "", 1, -1)]
        while stack:
            index, guide, below, level, owner = stack.pop()
            if owner < 0 and limit is not None and len(tree.lines) >= limit:
                break
            seen[index] = 1
            # pop: should two spans have the same id, the second one gets no children.
            inner = [
                child for child in children.pop(ids[index], ()) if not seen[child] and (kept is None or kept[child])
            ]
            if owner >= 0:
                fold = tree.folded[owner]
                fold.count += 1
                fold.errors += bool(errors[index])
                stack += [(child, "", "", level, owner) for child in inner]
                continue
            if depth is not None and level >= depth and inner:
                tree.folded[index] = Left()
                tree.lines.append(Line(index, guide, below + "   "))
                stack += [(child, "", "", level, index) for child in inner]
                continue
            tree.lines.append(Line(index, guide, below + (marks.pipe if inner else "   ")))
            below = below[-3 * max_levels :]
            for position, child in enumerate(reversed(inner)):
                mark, carry = (marks.last, "   ") if position == 0 else (marks.branch, marks.pipe)
                stack.append((child, below + mark, below + carry, level + 1, -1))
        if limit is not None and len(tree.lines) >= limit:
            break
    _count_cut(tree, errors)
    return tree


def _with_ancestors(ids: Sequence[Hashable], parents: Sequence[Hashable], errors: Sequence[object]) -> bytearray:
    """1 for each span that failed, or that is above one that did."""
    index_of = {identifier: index for index, identifier in enumerate(ids)}
    kept = bytearray(len(ids))
    for index, failed in enumerate(errors):
        above: int | None = index if failed else None
        while above is not None and not kept[above]:
            kept[above] = 1
            above = index_of.get(parents[above])
    return kept


def _count_cut(tree: Tree, errors: Sequence[object]) -> None:
    folded = tree.folded.values()
    tree.cut.count = tree.total - tree.passed - len(tree.lines) - sum(fold.count for fold in folded)
    if tree.cut.count:
        failed = sum(map(bool, errors))
        shown = sum(bool(errors[line.span]) for line in tree.lines)
        tree.cut.errors = failed - shown - sum(fold.errors for fold in folded)
