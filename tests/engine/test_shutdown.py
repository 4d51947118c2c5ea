"""GracefulShutdown: signals while a runner works, at moments that whole runners hardly ever meet."""

import _thread
import signal
import sys
import threading
from contextlib import contextmanager

import pytest

from tilebox_local.errors import StoreError
from tilebox_local.runner.shutdown import GracefulShutdown
from tilebox_local.storage.threads import Completion

TIMEOUT_S = 30


@contextmanager
def handled():
    """The signals that reach whoever handled SIGINT before."""
    heard = []
    previous = signal.signal(signal.SIGINT, lambda number, _frame: heard.append(number))
    try:
        yield heard
    finally:
        signal.signal(signal.SIGINT, previous)


def wait_until(condition):
    """Wait for what another thread is about to do."""
    pause = threading.Event()
    for _ in range(TIMEOUT_S * 1000):
        if condition():
            return
        pause.wait(0.001)
    pytest.fail("it did not happen")


def test_a_task_that_ends_in_time():
    """The signal is held back until the block ends; then it is delivered once, and nothing is given back."""
    given_back = []
    with handled() as heard:
        with GracefulShutdown(lambda: given_back.append(1), grace_period_s=TIMEOUT_S) as shutdown:
            signal.raise_signal(signal.SIGINT)
            assert (shutdown.is_stopping, heard) == (True, [])
        assert (heard, given_back) == ([signal.SIGINT], [])


def test_a_task_whose_end_cannot_be_reported():
    """The signal is delivered once also if the block ends with an exception, as when the store refuses."""

    def work():
        signal.raise_signal(signal.SIGINT)
        raise StoreError("the disk is full")

    with handled() as heard:
        with pytest.raises(StoreError), GracefulShutdown(lambda: None, grace_period_s=TIMEOUT_S):
            work()
        assert heard == [signal.SIGINT]


def test_a_task_that_ends_as_the_grace_does():
    """If the block ends while its task is being given back, it waits for that; the signal is delivered once."""
    begun, leave = threading.Event(), threading.Event()
    main = threading.get_ident()

    def give_back():
        begun.set()
        assert leave.wait(TIMEOUT_S)

    def is_waiting():
        return sys._current_frames()[main].f_code is Completion.wait.__code__

    def release():
        wait_until(is_waiting)
        leave.set()

    with handled() as heard:
        with GracefulShutdown(give_back, grace_period_s=0):
            signal.raise_signal(signal.SIGINT)
            assert begun.wait(TIMEOUT_S)
            thread = threading.Thread(target=release)
            thread.start()
        thread.join()
        assert heard == [signal.SIGINT]


def test_the_second_signal_does_not_wait():
    """A second Ctrl-C interrupts the task at once; the end of the grace period does not do it again."""
    given_back, before = [], _thread._count()

    def work():
        signal.raise_signal(signal.SIGINT)
        wait_until(lambda: _thread._count() == before + 1)
        signal.raise_signal(signal.SIGINT)

    with pytest.raises(KeyboardInterrupt), GracefulShutdown(lambda: given_back.append(1), TIMEOUT_S):
        work()
    wait_until(lambda: _thread._count() == before)
    assert given_back == []


def test_a_refusal_to_give_back(caplog):
    """The signal is delivered also if the task cannot be given back, as when the store refuses."""

    def give_back():
        raise StoreError("the disk is full")

    def work():
        signal.raise_signal(signal.SIGINT)
        threading.Event().wait(TIMEOUT_S)

    with pytest.raises(KeyboardInterrupt), GracefulShutdown(give_back, grace_period_s=0):
        work()
    assert caplog.messages == ["The running task could not be given back: the disk is full"]
