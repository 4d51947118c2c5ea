"""Fixtures of all tests that look at a store as such: a real file each. Other folders have a `store` of their own."""

from __future__ import annotations

import signal
import threading
from typing import TYPE_CHECKING

import pytest
from store_support import Disk

from tilebox_local.observability.tracing import WorkflowTracer
from tilebox_local.storage import writer as writer_module
from tilebox_local.storage.store import Store, open_store

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


if threading.current_thread() is threading.main_thread():
    # Whoever runs the tests in the background, or by nohup, ignores them, and so would all processes of the tests.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGHUP, signal.SIG_DFL)


@pytest.fixture
def path(tmp_path: Path) -> Iterator[Path]:
    """Where a store may be created. After the test, every thread that came with it must have ended."""
    before = set(threading.enumerate())
    yield tmp_path / "store.db"
    assert [thread.name for thread in threading.enumerate() if thread not in before and thread.is_alive()] == []


@pytest.fixture
def store(path: Path) -> Iterator[Store]:
    """A fresh store in a file."""
    store = open_store(path)
    yield store
    store.close()


@pytest.fixture
def tracer(store: Store) -> WorkflowTracer:
    """A tracer that writes to `store`."""
    return WorkflowTracer(store.writer.queue, store.resource(None))


@pytest.fixture
def disk(store: Store) -> Disk:
    """The disk of `store`; all is well until a test says otherwise."""
    return Disk(store)


@pytest.fixture
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """After a failure the writer tries again when it is asked to, not by itself."""
    monkeypatch.setattr(writer_module, "_RETRY_S", (3600.0,) * 5)


@pytest.fixture
def eager(monkeypatch: pytest.MonkeyPatch) -> None:
    """After a failure the writer tries again at once."""
    monkeypatch.setattr(writer_module, "_RETRY_S", (0.001,) * 5)
