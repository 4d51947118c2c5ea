"""os.fork(): what a child must not inherit is let go of before it, and taken up again after it.

Python goes on with a fork although a function of `os.register_at_fork` has raised. So no step of ours may leave the
others undone; above all Ctrl-C, or whatever else a signal handler raises, must not end them halfway. It is kept, and
raised when the fork is over. What is done after a fork depends on what has been done before it, not on what should
have been.
"""

from __future__ import annotations

import logging
import threading
from typing import TYPE_CHECKING, Any, Protocol

from tilebox_local.storage.signals import HeldInterrupts

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

__all__ = ["ForkLock", "ForkStep", "Forking"]

_log = logging.getLogger("tilebox.workflows.internal")


class ForkStep(Protocol):
    """What takes part in the forks of this process."""

    def before_fork(self) -> None:
        """Let go of what a child must not inherit, and keep other threads from taking it up."""

    def after_fork_in_parent(self) -> None:
        """Go on. Called if `before_fork` was, also if that failed."""

    def after_fork_in_child(self) -> None:
        """Begin anew. Called in every child."""


class ForkLock:
    """A lock that a fork waits for, since its holder may be halfway through something. Use `lock` in with statements.

    Args:
        make: Makes the lock.
        patience_s: How long a fork waits for it; -1: as long as it takes.
    """

    def __init__(self, make: Callable[[], Any], patience_s: float = -1) -> None:
        self.lock = make()
        self._make = make
        self._patience_s = patience_s
        self._is_forking = False

    def before_fork(self) -> None:
        """Let nobody else in until after the fork."""
        self._is_forking = self.lock.acquire(timeout=self._patience_s)

    def after_fork_in_parent(self) -> None:
        """Go on."""
        if self._is_forking:
            self._is_forking = False
            self.lock.release()

    def after_fork_in_child(self) -> None:
        """Threads of the parent may hold it."""
        self.lock = self._make()
        self._is_forking = False


class Forking:
    """The functions for `os.register_at_fork`.

    Args:
        steps: What takes part in a fork, one after the other. Each has let go before the next one is asked for.
        in_child: What begins anew in a child, in this order.
    """

    def __init__(self, steps: Callable[[], Iterable[ForkStep]], in_child: Callable[[], Iterable[ForkStep]]) -> None:
        self._steps = steps
        self._in_child = in_child
        self._forks: dict[int, _Fork] = {}  # under way, by thread

    def before_fork(self) -> None:
        """Before a fork, in its thread."""
        interrupts, error = None, None
        while interrupts is None or not interrupts.are_held:
            try:
                interrupts = interrupts or HeldInterrupts()
                interrupts.hold()
            except BaseException as raised:  # noqa: BLE001 -- by a handler that was not held yet
                error = raised
        if error is not None:
            interrupts.keep(error)
        fork = self._forks[threading.get_ident()] = _Fork(interrupts)
        for step in self._steps():
            fork.steps.append(step)
            _attempt(step.before_fork)

    def after_fork_in_parent(self) -> None:
        """After a fork, in the thread and process that have called it."""
        fork = self._forks.pop(threading.get_ident(), None)
        if fork is None:
            return  # Ctrl-C came before anything else
        for step in reversed(fork.steps):
            _attempt(step.after_fork_in_parent)
        fork.interrupts.let_go()

    def after_fork_in_child(self) -> None:
        """After a fork, in the new process."""
        fork = self._forks.get(threading.get_ident())
        self._forks.clear()
        for step in self._in_child():
            _attempt(step.after_fork_in_child)
        if fork is not None:
            fork.interrupts.let_go()


class _Fork:
    """One fork: what has been asked to let go."""

    def __init__(self, interrupts: HeldInterrupts) -> None:
        self.interrupts = interrupts
        self.steps: list[ForkStep] = []


def _attempt(step: Callable[[], None]) -> None:
    try:
        step()
    except BaseException:  # noqa: BLE001 -- whatever it is, the other steps have to be done
        _log.exception("A step of a fork has failed.")
