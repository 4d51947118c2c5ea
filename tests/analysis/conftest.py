"""Fixtures of the tests of analyses: a store in memory, its client, and a builder of jobs."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from trace_builder import TraceBuilder

from tilebox_local import Client

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture
def client() -> Iterator[Client]:
    """A client of an empty store in memory."""
    with Client(":memory:") as client:
        yield client


@pytest.fixture
def build(client: Client) -> TraceBuilder:
    """Makes jobs in the store of `client`."""
    return TraceBuilder(client._store)
