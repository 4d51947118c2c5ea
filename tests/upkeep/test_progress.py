"""Long work says how far it is, in steps that end with all that there is, and ends if whoever is told says so."""

from __future__ import annotations

from itertools import groupby
from typing import TYPE_CHECKING

import pytest

from tilebox_local import Client
from tilebox_local.upkeep import snapshot as snapshot_module
from tilebox_local.upkeep.recover import recover

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from tilebox_local.upkeep.progress import Progress


@pytest.fixture
def client(tmp_path: Path) -> Iterator[Client]:
    """A client of a store with some thousand spans of three traces of no job, that ended long ago."""
    with Client(tmp_path / "tilebox.db") as client:
        tracer = client.tracer_provider.get_tracer("test")
        for trace in range(3):
            root = tracer.start_span(f"root {trace}", start_time=1)
            for number in range(2000):
                span = tracer.start_span("step" * 20, start_time=number + 1)
                span.end(number + 2)
            root.end(10_000)
        client.flush()
        yield client


def checked(told: list[Progress]) -> dict[str, list[int]]:
    """What was done, by step; never less than before, and all in the end."""
    found = {}
    for (step, total, unit), group in groupby(told, key=lambda one: (one.step, one.total, one.unit)):
        done = [one.done for one in group]
        assert (step in found, done == sorted(done), done[-1]) == (False, True, total), (step, done, total)
        assert unit
        found[step] = done
    return found


def test_snapshot(client: Client, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A snapshot counts pages, as many at a time as are copied at a time."""
    monkeypatch.setattr(snapshot_module, "_PAGES_PER_STEP", 50)
    told: list[Progress] = []
    client.snapshot(tmp_path / "copy.db", progress=told.append)
    found = checked(told)
    assert list(found) == ["copying"]
    assert found["copying"][:2] == [50, 100]


def test_check(client: Client) -> None:
    """A check counts checks, from none to all."""
    told: list[Progress] = []
    assert client.check(full=True, progress=told.append).ok
    assert checked(told) == {"checking": list(range(told[-1].total + 1))}


def test_prune(client: Client) -> None:
    """Pruning counts what is deleted, then the pages that are given back; a dry run what is counted."""
    from datetime import timedelta

    told: list[Progress] = []
    assert client.prune(older_than=timedelta(0), dry_run=True, progress=told.append).spans > 0
    assert list(checked(told)) == ["counting"]
    told.clear()
    assert client.prune(older_than=timedelta(0), progress=told.append).spans > 6000
    assert list(checked(told)) == ["deleting", "giving back"]


def test_recover(client: Client, tmp_path: Path) -> None:
    """Recovery counts pages that are read, then repairs."""
    client.snapshot(tmp_path / "damaged.db")
    told: list[Progress] = []
    result = recover(tmp_path / "damaged.db", tmp_path / "new.db", progress=told.append)
    assert result.recovered["span_records"] == 6003
    found = checked(told)
    assert list(found) == ["reading", "repairing"]
    assert len(found["reading"]) > 6


@pytest.mark.parametrize("kind", [KeyboardInterrupt, ValueError])
def test_whoever_is_told_may_end_it(client: Client, tmp_path: Path, kind: type[BaseException]) -> None:
    """What the callback raises comes out of the call, which leaves nothing behind and the store as sound as before."""
    from datetime import timedelta

    def refuse(_: Progress) -> None:
        raise kind("enough")

    client.snapshot(tmp_path / "damaged.db")
    calls: list[Callable[[], object]] = [
        lambda: client.snapshot(tmp_path / "copy.db", progress=refuse),
        lambda: client.check(progress=refuse),
        lambda: client.prune(older_than=timedelta(0), progress=refuse),
        lambda: recover(tmp_path / "damaged.db", tmp_path / "new.db", progress=refuse),
    ]
    before = sorted(file.name for file in tmp_path.iterdir())
    for call in calls:
        with pytest.raises(kind, match="enough"):
            call()
        assert sorted(file.name for file in tmp_path.iterdir()) == before
    assert client.check(full=True).ok
