"""Runners: claim tasks, execute them, report."""

from typing import Any

__all__ = ["Runner", "TaskRunner"]


def __getattr__(name: str) -> Any:
    if name == "Runner":
        from tilebox_local.runner.runner import Runner

        return Runner
    if name == "TaskRunner":
        from tilebox_local.runner.task_runner import TaskRunner

        return TaskRunner
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
