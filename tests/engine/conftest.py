"""Fixtures of the engine's tests: a fresh in-memory store, client or script each, closed after the test."""

import pytest
from scripted import Engine, Script

from tilebox_local import Client, clock
from tilebox_local.storage.store import open_store


@pytest.fixture
def store():
    """A store that only this test sees."""
    store = open_store(":memory:")
    yield store
    store.close()


@pytest.fixture
def client():
    """A client on a store that only this test sees."""
    with Client(":memory:") as client:
        yield client


@pytest.fixture
def script(client):
    """Workflows on `client` whose tasks do what the test says."""
    return Script(client)


@pytest.fixture
def engine(client):
    """The engine's calls on the store of `client`."""
    return Engine(client)


class FrozenClock:
    """Wall and boot clock that stand still until a test moves them."""

    def __init__(self):
        self.wall_ns = 1_800_000_000_000_000_000
        self.boot_ns = 5_000_000_000_000

    def advance(self, seconds):
        """Let time pass on both."""
        self.wall_ns += round(seconds * 1e9)
        self.boot_ns += round(seconds * 1e9)


@pytest.fixture
def frozen(monkeypatch):
    """The library reads the wall and the boot clock from here."""
    frozen = FrozenClock()
    monkeypatch.setattr(clock, "wall_ns", lambda: frozen.wall_ns)
    monkeypatch.setattr(clock, "boot_ns", lambda: frozen.boot_ns)
    return frozen
