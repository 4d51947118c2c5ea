"""Bytes per span on disk, and the memory of a process that writes millions of spans."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from benchmarks.harness import NORMAL, Options, Result, Target, check_equal, in_fresh_process, produce_spans, rss_mb

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

TITLE = "Size on disk, and memory while writing"
METHOD = """\
*disk*: the file after `wal_checkpoint(TRUNCATE)`, less an empty store, divided by the number of spans: two
attributes, indexes included. *memory*: resident memory of a process that produces spans in a loop that never
pauses, at ten points on the way; growth is the largest of them less what the process had after the first 50,000
spans, when the queue had been full once. *dropped* must be none.
"""

_WARM_UP = 50_000


def measure_disk(folder: Path, count: int) -> dict[str, Any]:
    """Bytes per span."""
    from tilebox_local import Client

    path = folder / "store.db"
    Client(path).close()
    empty = _checkpointed_size(path)
    client = Client(path)
    with client.tracer.span("process-scenes"):
        produce_spans(client.tracer.span, count)
    client.close()
    return {"bytes": (_checkpointed_size(path) - empty) / (count + 1), "empty": empty}


def _checkpointed_size(path: Path) -> int:
    import apsw

    connection = apsw.Connection(str(path))
    connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
    connection.close()
    wal = path.with_name(path.name + "-wal")
    check_equal("bytes in the WAL", wal.stat().st_size if wal.exists() else 0, 0)
    return path.stat().st_size


def measure_memory(folder: Path, count: int) -> dict[str, Any]:
    """Resident memory at ten points."""
    import apsw

    from tilebox_local import Client

    client = Client(folder / "store.db")
    wal = folder / "store.db-wal"
    start, points, wal_mb = rss_mb(), [], 0.0
    with client.tracer.span("process-scenes"):
        produce_spans(client.tracer.span, _WARM_UP)
        warm = rss_mb()
        for _ in range(10):
            produce_spans(client.tracer.span, count // 10)
            points.append(rss_mb())
            wal_mb = max(wal_mb, wal.stat().st_size / 1e6)
    client.flush()
    dropped = client.stats().dropped_count
    client.close()
    stored = apsw.Connection(str(folder / "store.db")).execute("SELECT count(*) FROM span_records").get
    check_equal("spans stored or dropped", stored + dropped, _WARM_UP + count // 10 * 10 + 1)
    return {"start": start, "warm": warm, "points": points, "dropped": dropped, "wal_mb": wal_mb}


def run(options: Options) -> Iterator[Result]:
    """Disk, then memory: one long run each, for neither depends on who else is busy."""
    count = options.pick(200_000, 20_000)
    disk = in_fresh_process(measure_disk, count=count)
    yield Result(
        case="size/disk",
        unit="bytes/span",
        n=count,
        values=[disk["bytes"]],
        target=Target("median", "<=", 200),
        durability=NORMAL,
        notes={"empty_store_bytes": disk["empty"]},
    )
    count = options.pick(5_000_000, 200_000)
    memory = in_fresh_process(measure_memory, count=count)
    yield Result(
        case="size/memory_growth",
        unit="MB",
        n=count,
        values=[max(memory["points"]) - memory["warm"]],
        target=Target("max", "<", 100),
        durability=NORMAL,
        notes={
            "rss_mb_before_the_first_span": memory["start"],
            "rss_mb_after_warm_up": memory["warm"],
            "rss_mb_at_ten_points": memory["points"],
            "largest_wal_mb_at_these_points": memory["wal_mb"],
        },
    )
    yield Result(
        case="size/dropped",
        unit="spans",
        n=count,
        values=[memory["dropped"]],
        target=Target("max", "<=", 0),
        durability=NORMAL,
    )
