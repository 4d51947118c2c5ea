"""Spans of a job as a DataFrame."""

from __future__ import annotations

import importlib.util
import tempfile
import time
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.harness import Options, Result, Target, alternate, check_equal, in_fresh_process, produce_spans
from tilebox_local import Client, ExecutionContext, Task

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

TITLE = "Query spans into pandas"
METHOD = """\
`client.jobs().query_spans(job).to_pandas()` on a job whose task opened the spans, with pandas imported beforehand
and the file in the page cache. Peer *objects*: the same query, a `Span` object for each span, then the DataFrame
from those. Peer *official*: what tilebox-workflows does with the answer of its service: it parses pages of 1,000
spans from protobuf bytes (ready in memory, no network), makes its `Span` objects and calls its own `to_pandas()`.
Each measurement in a fresh process, the first call of that process.
"""

_PAGE = 1_000


class ProcessScenes(Task):
    """Opens the spans."""

    count: int

    def execute(self, context: ExecutionContext) -> None:
        """Open `count` spans below the task's own."""
        produce_spans(context.tracer.span, self.count)


def prepare(folder: Path, target: str, count: int, for_official: bool) -> dict[str, Any]:  # noqa: ARG001
    """Fill a store in the folder `target`, and the same spans as answers of the official service beside it."""
    store = Path(target)
    with Client(store / "store.db") as client:
        job = client.jobs().submit("process-scenes", ProcessScenes(count))
        client.runner(tasks=[ProcessScenes]).run_all()
        spans = client.jobs().query_spans(job)
        check_equal("spans", len(spans), count + 2)  # those of the task and the job, too
        if for_official:
            _write_pages(store, spans)
    return {"job": str(job.id)}


def _write_pages(store: Path, spans: list[Any]) -> None:
    from tilebox.workflows import data as official
    from tilebox.workflows.workflows.v1 import telemetry_pb2

    for number, first in enumerate(range(0, len(spans), _PAGE)):
        messages = [official.Span(**vars(span)).to_message() for span in spans[first : first + _PAGE]]
        page = telemetry_pb2.PaginatedSpansData(resource_spans=messages)
        (store / f"{number:06d}.page").write_bytes(page.SerializeToString())


def _timed_frame(make: Callable[[], Any], count: int) -> dict[str, Any]:
    started = time.perf_counter()
    frame = make()
    seconds = time.perf_counter() - started
    check_equal("rows", len(frame), count + 2)
    return {"seconds": seconds}


def measure_columns(folder: Path, source: str, job: str, count: int) -> dict[str, Any]:  # noqa: ARG001
    """Seconds of query and DataFrame, as it is."""
    import pandas as pd  # noqa: F401 -- its import is not what is measured

    with Client(Path(source) / "store.db") as client:
        return _timed_frame(lambda: client.jobs().query_spans(job).to_pandas(), count)


def measure_objects(folder: Path, source: str, job: str, count: int) -> dict[str, Any]:  # noqa: ARG001
    """Seconds of query, objects and DataFrame."""
    import pandas as pd

    def make() -> Any:
        spans = client.jobs().query_spans(job)
        return pd.DataFrame([{**vars(span), "duration": span.duration} for span in spans])

    with Client(Path(source) / "store.db") as client:
        return _timed_frame(make, count)


def measure_official(folder: Path, source: str, job: str, count: int) -> dict[str, Any]:  # noqa: ARG001
    """Seconds of parsing the service's answer, objects and DataFrame in the official package."""
    import pandas as pd  # noqa: F401
    from tilebox.workflows import data as official
    from tilebox.workflows.workflows.v1 import telemetry_pb2

    pages = [page.read_bytes() for page in sorted(Path(source).glob("*.page"))]

    def make() -> Any:
        spans = official.Spans()
        for page in pages:
            message = telemetry_pb2.PaginatedSpansData.FromString(page)
            spans.extend(official.QueryJobSpansResponse.from_message(message).spans)
        return spans.to_pandas()

    return _timed_frame(make, count)


def run(options: Options) -> Iterator[Result]:
    """The three ways, in turn, on one store."""
    count = options.pick(100_000, 5_000)
    has_official = importlib.util.find_spec("tilebox") is not None
    ways = [measure_columns, measure_objects, *([measure_official] if has_official else [])]
    with tempfile.TemporaryDirectory(prefix="tilebox-local-benchmark-") as source:
        job = in_fresh_process(prepare, target=source, count=count, for_official=has_official)["job"]
        ours, *peers = alternate(
            options.pick(3, 1),
            *(partial(in_fresh_process, way, source=source, job=job, count=count) for way in ways),
        )
    names = ("a Span object for each span first", "tilebox-workflows, from protobuf bytes")
    for case, name, peer in zip(("objects", "official"), names, peers, strict=False):
        yield Result(
            case=f"query/vs_{case}",
            unit="s",
            n=count,
            values=[one["seconds"] for one in ours],
            target=Target("median", "<", 1) if case == "objects" else Target("ratio", "<", 1),
            peer=name,
            peer_values=[one["seconds"] for one in peer],
        )
