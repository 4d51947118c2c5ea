"""Task classes of automations, which only the hosted Tilebox can trigger.

Modules that define such tasks next to ordinary ones stay usable: the classes can be defined, registered with
a runner and instantiated. What needs a trigger raises: `once`, reading `trigger`, and submitting.
"""

# ruff: noqa: ARG002 -- the official signatures
from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING, Any, NoReturn

from tilebox_local.errors import hosted_only
from tilebox_local.storage_locations import StorageEventType
from tilebox_local.task import Task

if TYPE_CHECKING:
    from datetime import datetime

    from tilebox_local.storage_locations import StorageLocation

__all__ = ["CronTask", "StorageEventTask", "StorageEventType"]


class _TriggeredTask(Task):
    # Not a plain property: tests of execute() may assign a trigger of their own.
    @cached_property
    def trigger(self) -> Any:
        """The event that submitted the task. Raises NotImplementedError unless it was assigned."""
        raise hosted_only(f"The trigger of {type(self).__name__}")

    def _serialize(self) -> bytes:
        raise hosted_only(f"Submitting {type(self).__name__}, a task of an automation,")


class CronTask(_TriggeredTask):
    """Base of tasks that a schedule submits. Can be defined, but not submitted."""

    def once(self, trigger_time: datetime | None = None) -> NoReturn:
        """Not available. Raises NotImplementedError."""
        raise hosted_only("CronTask.once")


class StorageEventTask(_TriggeredTask):
    """Base of tasks that a new object in a storage location submits. Can be defined, but not submitted."""

    def once(
        self,
        storage_location: StorageLocation,
        object_location: str,
        event_type: StorageEventType = StorageEventType.CREATED,
    ) -> NoReturn:
        """Not available. Raises NotImplementedError."""
        raise hosted_only("StorageEventTask.once")
