"""What the terminal shows of the trace of a job: the shape of all of it, and the details of what is shown."""

from __future__ import annotations

from collections import defaultdict
from operator import itemgetter
from typing import TYPE_CHECKING, Any, NamedTuple

import orjson

from tilebox_local.catalog import run, value
from tilebox_local.data import TASK_FAILED_STATUS
from tilebox_local.formatting.trace_tree import Marks, Tree, arrange
from tilebox_local.formatting.waterfall import LogRow, LogRows, SpanRow
from tilebox_local.ids import unsigned64

if TYPE_CHECKING:
    from collections.abc import Iterable

    import apsw

__all__ = ["Waterfall", "read_waterfall"]

_LOGS_PER_SPAN = 20


class Waterfall(NamedTuple):
    """A trace as `draw_waterfall` takes it."""

    tree: Tree
    rows: dict[int, SpanRow]
    start_ns: int
    end_ns: int
    logs: dict[str, LogRows]


def read_waterfall(
    connection: apsw.Connection,
    job_no: int,
    *,
    limit: int | None,
    depth: int | None,
    errors_only: bool,
    with_logs: bool,
    max_levels: int,
    marks: Marks,
) -> Waterfall | None:
    """The trace of a job, as far as it is shown; None without spans. `connection` is in a transaction.

    Of all spans only their place is read; names, messages and log records only of those that are shown.
    """
    trace_no = value(connection, "trace_of_job_no", (job_no,))
    shape = run(connection, "waterfall_spans", (trace_no,))
    if not shape:
        return None
    starts, ids, parents, ends, errors = zip(*shape, strict=True)
    tree = arrange(
        ids, parents, errors, limit=limit, max_levels=max_levels, marks=marks, depth=depth, errors_only=errors_only
    )
    indexes = [line.span for line in tree.lines]
    keys = itemgetter(*indexes)(shape) if len(indexes) > 1 else [shape[index] for index in indexes]
    details = _details(connection, trace_no, keys)
    rows = {}
    for index in indexes:
        start_ns, span_id, parent, end_ns, is_error = shape[index]
        name, message, runner = details.get((start_ns, span_id), ("", None, None))
        rows[index] = SpanRow(
            span_id=_hex16(span_id),
            parent_span_id=None if parent is None else _hex16(parent),
            name=name,
            start_ns=start_ns,
            end_ns=end_ns,
            runner=str(runner or ""),
            is_error=bool(is_error),
            message=message or "",
        )
    end_ns = max((end for end in ends if end is not None), default=starts[-1])
    end_ns = max(end_ns, starts[-1])
    logs = _logs(connection, trace_no, (ids[index] for index in indexes)) if with_logs else {}
    return Waterfall(tree, rows, starts[0], end_ns, logs)


def _details(
    connection: apsw.Connection, trace_no: int, keys: Iterable[tuple[Any, ...]]
) -> dict[tuple[int, int], tuple[str, str | None, str | None]]:
    """Name, message and runner of spans; the message of a failed one is its exception if its status gives no reason."""
    keys = list(keys)
    text = orjson.dumps([[start_ns, span_id] for start_ns, span_id, *_ in keys]).decode()
    found = run(connection, "waterfall_details", {"trace_no": trace_no, "spans": text})
    details = {(start_ns, span_id): (name, message, runner) for start_ns, span_id, name, message, runner in found}
    silent = {
        key: (name, runner)
        for key, (name, message, runner) in details.items()
        if message in (None, "", TASK_FAILED_STATUS)
    }
    failed = [span_id for start_ns, span_id, _, _, is_error in keys if is_error and (start_ns, span_id) in silent]
    if failed:
        parameters = {"trace_no": trace_no, "spans": orjson.dumps(failed).decode()}
        reasons: dict[int, str] = {}
        for span_id, kind, message in run(connection, "waterfall_exceptions", parameters):
            reasons[span_id] = ": ".join(str(part) for part in (kind, message) if part)  # the last one counts
        for key, (name, runner) in silent.items():
            if reasons.get(key[1]):
                details[key] = (name, reasons[key[1]], runner)
    return details


def _logs(connection: apsw.Connection, trace_no: int, span_ids: Iterable[int]) -> dict[str, LogRows]:
    parameters = {"trace_no": trace_no, "spans": orjson.dumps(list(span_ids)).decode(), "limit": _LOGS_PER_SPAN}
    rows: dict[int, list[LogRow]] = defaultdict(list)
    totals: dict[int, int] = {}
    for span_id, time_ns, severity, body, count in run(connection, "waterfall_logs", parameters):
        rows[span_id].append(LogRow(time_ns, severity, body))
        totals[span_id] = count
    return {_hex16(span_id): LogRows(found, totals[span_id]) for span_id, found in rows.items()}


def _hex16(span_id: int) -> str:
    return f"{unsigned64(span_id):016x}"
