"""Signal handlers that use a store at any moment of what they interrupt: none waits for its own thread.

Python runs them in the main thread, between any two steps of whatever it is doing. A lock that this thread holds, and
the handler wants, is never given back.
"""

from __future__ import annotations

import os
import signal
from typing import TYPE_CHECKING

import pytest
from store_support import IS_NIGHTLY, outside, run_ok

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.skipif(not hasattr(signal, "SIGUSR1"), reason="needs SIGUSR1")

SCRIPT = """
import faulthandler, os, signal, sys, tempfile, threading
import tilebox_local.storage
from tilebox_local import Client
from tilebox_local.errors import FlushTimeoutError, StoreError
from tilebox_local.storage import store as stores, writer

path, action, operation = sys.argv[1:4]
stride = int(sys.argv[4])
FOLDER = os.path.dirname(tilebox_local.storage.__file__)
# concurrent.futures has locks of its own, which Python itself cannot take twice in nested forks.
LEFT_OUT = os.path.join(FOLDER, "redaction.py")
# Whoever waits for its own thread does so longer than this test.
writer._PATIENCE_S = stores._opening._patience_s = stores._EXIT_TIMEOUT_S = 60
made = 0

def span():
    global made
    with client.tracer.span("span"):
        pass
    made += 1

def flush():
    span()
    client.flush()

def close():
    client.close()

def close_both():
    client.close()
    other.close()

def open_another():
    Client(path + "-another").close()

def read():
    client.sql("SELECT count(*) FROM spans")

def checkpoint():
    client._store.checkpoint()

def transact():
    client._store.transact(lambda connection: None)

def fork():
    pid = os.fork()
    if not pid:
        os._exit(3)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 3

def handle(number, frame):
    try:
        globals()[action]()
    except (FlushTimeoutError, StoreError) as error:
        # What it has interrupted has closed the store, or opens the same one, or forks.
        assert "closed" in str(error) or "interrupted" in str(error), error

def trace(frame, event, _value):
    global moment
    if not frame.f_code.co_filename.startswith(FOLDER) or frame.f_code.co_filename == LEFT_OUT:
        return None
    moment -= 1
    if not moment:
        sys.settrace(None)
        signal.raise_signal(signal.SIGUSR1)
    return trace

def operate():
    sys.settrace(trace)
    try:
        globals()[operation]()
    except StoreError as error:
        assert action == "close" and "closed" in str(error), error
    finally:
        sys.settrace(None)

signal.signal(signal.SIGUSR1, handle)
last = moment = 0
descriptors = None
while moment <= 0:
    last += stride
    client, other = Client(path), Client(path)
    read()
    moment = last
    faulthandler.dump_traceback_later(40, exit=True)
    operate()
    for each in client, other:
        each.close()
    faulthandler.cancel_dump_traceback_later()
    assert not stores._stores, last
    assert threading.active_count() == 1, last
    descriptors = descriptors or len(os.listdir("/dev/fd"))
    assert len(os.listdir("/dev/fd")) == descriptors, last
print(last, made)
"""
ACTIONS = ["span", "flush", "transact", "read", "checkpoint", "close", "open_another", "fork"]
OPERATIONS = {  # how many moments there are at least, and of how many one is tried, so that it takes a second or two
    "span": (40, 2),
    "flush": (80, 5),
    "transact": (40, 5),
    "read": (50, 7),
    "checkpoint": (40, 3),
    "close_both": (200, 17),
    "open_another": (1500, 97),
    "fork": (300, 37),
}


@pytest.mark.parametrize("more", [1, *([pytest.param(10, marks=pytest.mark.soak)] if IS_NIGHTLY else [])])
@pytest.mark.parametrize("operation", OPERATIONS)
@pytest.mark.parametrize("action", ACTIONS)
def test_a_handler_at_any_moment(action: str, operation: str, more: int, path: Path) -> None:
    """A handler records spans, writes, opens, closes and forks at any moment of these; nobody waits for ever."""
    if "fork" in (action, operation) and not hasattr(os, "fork"):
        pytest.skip("needs fork")
    least, stride = OPERATIONS[operation]
    last, made = map(int, run_ok(SCRIPT, path, action, operation, max(1, stride // more), warnings="ignore").split())
    assert last > least
    stored = outside(path, "SELECT count(*) FROM spans")
    if action in ("span", "flush") and operation == "close_both":
        assert stored[0][0] <= made  # what comes after the close is dropped
    elif "close" not in (action, operation.removesuffix("_both")):
        assert stored == [(made,)]
