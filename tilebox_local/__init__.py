"""Tilebox Workflows on one machine: jobs, tasks and their traces in one SQLite file.

Importing this package loads nothing else; each public name is imported on first use.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tilebox_local.client import Client
    from tilebox_local.data import Job
    from tilebox_local.runner.runner import Runner
    from tilebox_local.task import ExecutionContext, Task
    from tilebox_local.upkeep.recover import recover as recover

__version__ = "0.1.0"
__all__ = ["Client", "ExecutionContext", "Job", "Runner", "Task"]

_HOMES = {
    "Client": "tilebox_local.client",
    "ExecutionContext": "tilebox_local.task",
    "Job": "tilebox_local.data",
    "Runner": "tilebox_local.runner.runner",
    "Task": "tilebox_local.task",
    "recover": "tilebox_local.upkeep.recover",
}


def __getattr__(name: str) -> Any:
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    import importlib

    value = getattr(importlib.import_module(home), name)
    globals()[name] = value  # later look-ups bypass this function
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOMES})
