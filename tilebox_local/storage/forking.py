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
        make: Makes the lock; one that its thread may take again, since a signal handler may fork.
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
        is_needed: Whether what signal handlers raise is to be kept meanwhile. Otherwise they are left alone.
    """

    def __init__(
        self,
        steps: Callable[[], Iterable[ForkStep]],
        in_child: Callable[[], Iterable[ForkStep]],
        is_needed: Callable[[], bool],
    ) -> None:
        self._steps = steps
        self._in_child = in_child
        self._is_needed = is_needed
        # Under way, by thread: the last one is that of a signal handler that has interrupted the one before.
        self._forks: dict[int, list[_Fork]] = {}

    def before_fork(self) -> None:
        """Before a fork, in its thread."""
        interrupts, error, is_needed = None, None, True
        while is_needed and (interrupts is None or not interrupts.are_held):
            try:  # here, not in a function of its own: Python swallows what comes before the first instruction
                is_needed = self._is_needed() or error is not None
                if is_needed:
                    interrupts = interrupts or HeldInterrupts()
                    interrupts.hold()
            except BaseException as raised:  # noqa: BLE001 -- by a handler that was not held yet
                error = raised
        if interrupts is not None and error is not None:
            interrupts.keep(error)
        forks = self._forks.setdefault(threading.get_ident(), [])
        begun = [step for fork in forks for step in fork.steps]
        fork = _Fork(interrupts)
        forks.append(fork)
        for step in self._steps():
            # What an interrupted fork has begun is its to end. If it has not let go yet, this child will notice.
            if step not in begun:
                fork.steps.append(step)
                _attempt(step.before_fork)

    def after_fork_in_parent(self) -> None:
        """After a fork, in the thread and process that have called it."""
        forks = self._forks.get(threading.get_ident())
        if not forks:
            return  # Ctrl-C came before anything else
        fork = forks[-1]
        for step in reversed(list(fork.steps)):
            if step in fork.steps:  # else this is a child that a signal handler has forked meanwhile
                _attempt(step.after_fork_in_parent)
                fork.steps.remove(step)
        forks.remove(fork)
        if not forks:
            self._forks.pop(threading.get_ident(), None)
        fork.end()

    def after_fork_in_child(self) -> None:
        """After a fork, in the new process."""
        forks = self._forks.get(threading.get_ident(), [])
        self._forks = {threading.get_ident(): forks}
        fork = forks[-1] if forks else None
        beginning = _Fork(None)
        beginning.steps = list(self._in_child())
        forks.append(beginning)  # a signal handler that forks now finds nothing that could let go
        for each in forks[:-1]:
            each.steps.clear()  # nothing is to be taken up again in this process
        for step in list(beginning.steps):
            _attempt(step.after_fork_in_child)
        forks.remove(beginning)
        if fork is not None:
            forks.remove(fork)
            fork.end()


class _Fork:
    """One fork: what has been asked to let go."""

    def __init__(self, interrupts: HeldInterrupts | None) -> None:
        self._interrupts = interrupts
        self.steps: list[ForkStep] = []

    def end(self) -> None:
        """Raise what has been kept meanwhile."""
        if self._interrupts is not None:
            self._interrupts.let_go()


def _attempt(step: Callable[[], None]) -> None:
    try:
        step()
    except BaseException:  # noqa: BLE001 -- whatever it is, the other steps have to be done
        _log.exception("A step of a fork has failed.")
