"""The client of automations, a hosted feature: every method raises NotImplementedError."""

# ruff: noqa: ARG002 -- the official signatures
from __future__ import annotations

from typing import TYPE_CHECKING, Any, NoReturn

from tilebox_local.errors import hosted_only

if TYPE_CHECKING:
    from uuid import UUID

    from tilebox_local.automations import CronTask, StorageEventTask
    from tilebox_local.data import Cluster
    from tilebox_local.storage_locations import StorageLocation

__all__ = ["AutomationClient"]


class AutomationClient:
    """Stands for the official client of the same name; automations are a hosted feature."""

    def all(self) -> NoReturn:
        """Not available."""
        raise hosted_only("Listing automations")

    def find(self, automation_id: UUID | str) -> NoReturn:
        """Not available."""
        raise hosted_only("Finding an automation")

    def create_cron_automation(
        self,
        name: str,
        task: CronTask,
        cron_schedules: str | list[str],
        cluster: Cluster | str | None = None,
        max_retries: int = 0,
    ) -> NoReturn:
        """Not available."""
        raise hosted_only(f"The cron automation {name!r}")

    def create_storage_event_automation(
        self,
        name: str,
        task: StorageEventTask,
        triggers: list[tuple[StorageLocation, str]] | tuple[StorageLocation, str],
        cluster: Cluster | str | None = None,
        max_retries: int = 0,
    ) -> NoReturn:
        """Not available."""
        raise hosted_only(f"The storage event automation {name!r}")

    def delete(self, automation_or_id: Any, cancel_jobs: bool = False) -> NoReturn:
        """Not available."""
        raise hosted_only("Deleting an automation")
