"""What one span costs the thread that opens it, against OpenTelemetry's SDK with an exporter that does nothing."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from benchmarks.harness import NORMAL, Options, Result, Target, alternate, in_fresh_process, produce_spans

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

TITLE = "Cost of a span for the user's thread"
METHOD = """\
A span with two attributes below a parent span, `with client.tracer.span(...)`, in a loop; the same loop with
opentelemetry-sdk: `start_as_current_span`, BatchSpanProcessor (its queue large enough to drop nothing, which is its
cheapest mode) and an exporter that does nothing. Each measurement in a fresh process, after 2,000 spans of warm-up.
*cpu* is the processor time of the producing thread (`time.thread_time`), *wall* includes its waits for the lock of
the interpreter and for room in the queue. *busy* never pauses; *paced* sleeps 1 ms after every 100 spans, outside
of the clock. Our side writes to disk meanwhile: *written share* says how much of it is committed, and *queued* how
much waits, when the loop ends.

*attributes* gives the attributes with the call that makes the span, *provider* goes through the OpenTelemetry API on
`client.tracer_provider`, as instrumented libraries do: both busy.
"""

_WARM_UP = 2_000
_PACE = 100


def _with_attributes(make_span: Callable[..., Any], count: int) -> None:
    """`produce_spans`, with the attributes as an argument."""
    for index in range(count):
        with make_span("compute-index", attributes={"scene_id": "S2A_31UFS_20240612", "tile": index}):
            pass


def _timed(
    produce: Callable[[Callable[..., Any], int], None], make_span: Callable[..., Any], count: int, paced: bool
) -> dict[str, float]:
    """Microseconds per span on this thread."""
    wall = cpu = 0.0
    chunk = _PACE if paced else count
    for _ in range(count // chunk):
        wall_started, cpu_started = time.perf_counter(), time.thread_time()
        produce(make_span, chunk)
        cpu += time.thread_time() - cpu_started
        wall += time.perf_counter() - wall_started
        if paced:
            time.sleep(0.001)
    return {"wall": wall / count * 1e6, "cpu": cpu / count * 1e6}


def measure_ours(folder: Path, count: int, paced: bool, way: str) -> dict[str, Any]:
    """One measurement of tilebox-local."""
    from tilebox_local import Client

    client = Client(folder / "store.db")
    with client.tracer.span("process-scenes"):
        provider_span = client.tracer_provider.get_tracer("benchmark").start_as_current_span
        make_span = provider_span if way == "provider" else client.tracer.span
        produce = _with_attributes if way == "attributes" else produce_spans
        produce(make_span, _WARM_UP)
        client.flush()
        written = client.stats().written_count
        times = _timed(produce, make_span, count, paced)
        stats = client.stats()
    client.close()
    shares = {
        "written_share": (stats.written_count - written) / count,
        "queued": stats.queued_count,
        "dropped": stats.dropped_count,
    }
    return {**times, **shares}


def measure_peer(folder: Path, count: int, paced: bool, way: str) -> dict[str, Any]:  # noqa: ARG001 -- writes nothing
    """One measurement of opentelemetry-sdk."""
    from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult

    class NullExporter(SpanExporter):
        def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:  # noqa: ARG002
            return SpanExportResult.SUCCESS

    provider = TracerProvider()
    provider.add_span_processor(BatchSpanProcessor(NullExporter(), max_queue_size=count + _WARM_UP + 1))
    tracer = provider.get_tracer("benchmark")
    with tracer.start_as_current_span("process-scenes"):
        produce = _with_attributes if way == "attributes" else produce_spans
        produce(tracer.start_as_current_span, _WARM_UP)
        provider.force_flush()
        times = _timed(produce, tracer.start_as_current_span, count, paced)
    provider.shutdown()
    return times


def run(options: Options) -> Iterator[Result]:
    """Busy and paced loops, then other ways to make the span; wall and processor time of each."""
    count = options.pick(100_000, 10_000)
    for name in ("busy", "paced", "attributes", "provider"):
        settings = {"count": count, "paced": name == "paced", "way": name}
        ours, peers = alternate(
            options.pick(4, 1),
            lambda settings=settings: in_fresh_process(measure_ours, **settings),
            lambda settings=settings: in_fresh_process(measure_peer, **settings),
        )
        for clock in ("cpu", "wall"):
            yield Result(
                case=f"span_cost/{name}/{clock}",
                unit="us/span",
                n=count,
                values=[one[clock] for one in ours],
                target=Target("ratio", "<=", 1 / 5, goal=1 / 8),
                peer="opentelemetry-sdk, BatchSpanProcessor, null exporter",
                peer_values=[one[clock] for one in peers],
                durability=NORMAL + "; peer: none",
                notes={key: [one[key] for one in ours] for key in ("written_share", "queued", "dropped")}
                if clock == "wall"
                else {},
            )
