"""Fixtures of the tests of spans and logs: a client on a real file, and logging as it was before."""

from __future__ import annotations

import logging
import threading
from contextvars import copy_context
from typing import TYPE_CHECKING

import pytest

from tilebox_local import Client
from tilebox_local.observability import logging as observability

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture(autouse=True)
def _as_before(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Each test starts without consoles and without a runner, with the default levels, and leaves no current span."""
    loggers = [observability.root_logger, observability.task_logger, observability.internal_logger, logging.getLogger()]
    before = [(logger, logger.level, logger.handlers[:]) for logger in loggers]
    monkeypatch.setattr(observability, "_first_runner", None)
    monkeypatch.setattr(observability, "_consoles", [])
    monkeypatch.setattr(observability, "_is_console_configured", True)  # runners add none
    context = copy_context()
    yield
    for logger, level, handlers in before:
        logger.setLevel(level)
        logger.handlers[:] = handlers
    assert dict(copy_context().items()) == dict(context.items())


@pytest.fixture
def client(tmp_path: Path) -> Iterator[Client]:
    """A client on a store of its own; after the test, every thread that came with it must have ended."""
    before = set(threading.enumerate())
    with Client(tmp_path / "store.db", name="tests") as client:
        yield client
    assert [thread.name for thread in threading.enumerate() if thread not in before and thread.is_alive()] == []
