"""The definitions of docs/analysis.md once more, slow and plain."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hypothesis import strategies as st
from trace_builder import SpanSpec

if TYPE_CHECKING:
    from collections.abc import Sequence


def nearest_rank(values: Sequence[int], percent: int) -> int | None:
    """The smallest value that at least so many percent of the values do not exceed."""
    for value in sorted(values):
        if sum(other <= value for other in values) * 100 >= percent * len(values):
            return value
    return None


def self_time(span: SpanSpec, spans: Sequence[SpanSpec]) -> int:
    """Instants of the span, one by one, at which no child is open."""
    assert span.end is not None
    children = [child for child in spans if child.parent == span.span_id]
    return sum(
        not any(child.start <= at and (child.end is None or at < child.end) for child in children)
        for at in range(span.start, span.end)
    )


@st.composite
def traces(draw: st.DrawFn, *, unique_ids: bool = True) -> list[SpanSpec]:
    """Spans with any parents: known, later, unknown, themselves; children may stick out of their parents."""
    count = draw(st.integers(0, 12))
    ids = list(range(1, count + 1)) if unique_ids else draw(st.lists(st.integers(1, 6), min_size=count, max_size=count))
    spans = []
    for span_id in ids:
        start = draw(st.integers(0, 20))
        length = draw(st.none() | st.integers(0, 20))
        spans.append(
            SpanSpec(
                name=draw(st.sampled_from(["a", "b", "c"])),
                start=start,
                end=None if length is None else start + length,
                parent=draw(st.none() | st.integers(1, count + 1)),
                span_id=span_id,
                status=draw(st.sampled_from([0, 0, 1, 2])),
            )
        )
    return list({(span.start, span.span_id): span for span in spans}.values())  # the key of span_records
