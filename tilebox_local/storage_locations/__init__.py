"""The values of storage locations, so that code naming them can be imported; using them is hosted only."""

# ruff: noqa: ARG002 -- the official signatures
from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum
from functools import total_ordering
from typing import TYPE_CHECKING, NoReturn, TypeAlias

from tilebox_local.errors import hosted_only
from tilebox_local.storage_locations.client import StorageLocationClient

if TYPE_CHECKING:
    from datetime import datetime
    from uuid import UUID

    from tilebox_local.data import RunnerContext

__all__ = [
    "AWSS3BucketReference",
    "AWSS3StorageLocation",
    "AzureBlobReference",
    "AzureBlobStorageLocation",
    "GCSBucketReference",
    "GCSStorageLocation",
    "LocalReference",
    "StorageEventType",
    "StorageLocation",
    "StorageLocationClient",
    "StorageLocationReference",
    "StorageSubscriptionEvent",
    "StorageType",
    "TriggeredJob",
]


class StorageType(Enum):
    """Kind of store; the values are the wire's."""

    GCS = 1
    AWS_S3 = 2
    LOCAL = 3
    AZURE_BLOB = 4


class StorageEventType(Enum):
    """What happened to an object; the values are the wire's."""

    CREATED = 1


@dataclass(frozen=True)
class AWSS3BucketReference:
    """A bucket of Amazon S3."""

    bucket: str
    region: str = ""


@dataclass(frozen=True)
class GCSBucketReference:
    """A bucket of Google Cloud Storage."""

    bucket: str
    project_id: str = ""
    location: str = ""


@dataclass(frozen=True)
class AzureBlobReference:
    """A container of Azure Blob Storage."""

    storage_account_resource_id: str
    container: str
    region: str = ""


@dataclass(frozen=True)
class LocalReference:
    """A directory."""

    path: str


StorageLocationReference: TypeAlias = AWSS3BucketReference | GCSBucketReference | AzureBlobReference | LocalReference


@total_ordering
@dataclass(frozen=True)
class StorageLocation:
    """A bucket, container or directory (`location`) of which hosted Tilebox knows. Sorts by id."""

    id: UUID
    location: str
    type: StorageType
    runner_context: RunnerContext | None = None
    name: str = field(default="", kw_only=True)

    def __lt__(self, other: object) -> bool:
        if not isinstance(other, StorageLocation):
            return NotImplemented
        return (self.id, self.location, self.type.value) < (other.id, other.location, other.type.value)

    def __str__(self) -> str:
        schemes = {StorageType.AWS_S3: "s3://", StorageType.GCS: "gs://", StorageType.LOCAL: ""}
        if self.type in schemes:
            return f"{schemes[self.type]}{self.location}"
        return self.type.name.lower().replace("_", "-")

    def read(self, path: str) -> NoReturn:
        """Not available."""
        raise hosted_only(f"Reading from the storage location {self}")


@dataclass(frozen=True)
class AWSS3StorageLocation(StorageLocation):
    """A storage location in Amazon S3."""

    region: str | None = field(default=None, kw_only=True)


@dataclass(frozen=True)
class GCSStorageLocation(StorageLocation):
    """A storage location in Google Cloud Storage."""

    project_id: str = field(default="", kw_only=True)
    bucket_location: str = field(default="", kw_only=True)


@dataclass(frozen=True)
class AzureBlobStorageLocation(StorageLocation):
    """A storage location in Azure Blob Storage."""

    storage_account_resource_id: str = field(kw_only=True)
    region: str = field(default="", kw_only=True)

    def __str__(self) -> str:
        return f"{self.storage_account_resource_id}/containers/{self.location}"


@dataclass(frozen=True)
class TriggeredJob:
    """A job that a storage event submitted."""

    job_id: UUID
    automation_id: UUID
    glob_pattern: str


@dataclass(frozen=True)
class StorageSubscriptionEvent:
    """A storage event and the jobs it submitted."""

    id: UUID
    object_key: str
    type: StorageEventType
    event_time: datetime
    received_at: datetime
    triggered_jobs: list[TriggeredJob]
    storage_subscription_id: UUID
