"""How far long work is, for whoever waits for it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

__all__ = ["Progress", "Report"]


@dataclass(frozen=True)
class Progress:
    """How far a step of long work is: `done` of `total` units. Each step ends with done = total."""

    step: str  #: "copying", "deleting", ...
    done: int
    total: int
    unit: str  #: "pages", "jobs and traces", "checks"


#: Is called on the thread that does the work, between two parts of it. What it raises ends the work, as Ctrl-C would.
Report: TypeAlias = Callable[[Progress], None]
