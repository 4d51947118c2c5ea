"""The client of storage locations, a hosted feature: every method raises NotImplementedError."""

# ruff: noqa: ARG002 -- the official signatures
from __future__ import annotations

from typing import TYPE_CHECKING, NoReturn, TypeAlias

from tilebox_local.errors import hosted_only

if TYPE_CHECKING:
    from uuid import UUID

    from tilebox_local.storage_locations import StorageLocation, StorageLocationReference

__all__ = ["StorageLocationClient", "StorageLocationIDLike"]

StorageLocationIDLike: TypeAlias = "StorageLocation | UUID | str"


class StorageLocationClient:
    """Stands for the official client of the same name; storage locations are a hosted feature."""

    def all(self) -> NoReturn:
        """Not available."""
        raise hosted_only("Listing storage locations")

    def find(self, storage_location_id: StorageLocationIDLike) -> NoReturn:
        """Not available."""
        raise hosted_only("Finding a storage location")

    def create(self, name: str, reference: StorageLocationReference) -> NoReturn:
        """Not available."""
        raise hosted_only(f"The storage location {name!r}")

    def update(self, storage_location_id: StorageLocationIDLike, name: str) -> NoReturn:
        """Not available."""
        raise hosted_only("Renaming a storage location")
