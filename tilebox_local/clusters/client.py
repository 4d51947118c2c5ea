"""ClusterClient: `client.clusters()`."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeAlias

from tilebox_local import clock
from tilebox_local.data import Cluster
from tilebox_local.engine import clusters as engine
from tilebox_local.query.jobs import find_cluster, list_clusters

if TYPE_CHECKING:
    from collections.abc import Callable

    from tilebox_local.storage.store import Store

__all__ = ["ClusterClient", "ClusterSlugLike", "to_cluster_slug"]

ClusterSlugLike: TypeAlias = Cluster | str


def to_cluster_slug(cluster: ClusterSlugLike) -> str:
    """Slug of a cluster or of a slug."""
    return cluster.slug if isinstance(cluster, Cluster) else getattr(cluster, "slug", cluster)


class ClusterClient:
    """Clusters of one store. Thread-safe; changes are committed on return.

    Args:
        open_store: Gives the store, or raises StoreClosedError once the client is closed.
    """

    def __init__(self, open_store: Callable[[], Store]) -> None:
        self._open_store = open_store

    @property
    def _store(self) -> Store:
        return self._open_store()

    def create(self, name: str, description: str | None = None, slug: str | None = None) -> Cluster:
        """Create a cluster. Without `slug`, one is made from the name. Raises ArgumentError."""
        created = self._store.transact(lambda connection: engine.create_cluster(connection, name, description, slug))
        return find_cluster(self._store, created)

    def update(
        self, cluster_or_slug: ClusterSlugLike, name: str | None = None, description: str | None = None
    ) -> Cluster:
        """Change the name, the description, or both; "" removes the description.

        Raises NotFoundError and ArgumentError.
        """
        slug = to_cluster_slug(cluster_or_slug)
        self._store.transact(lambda connection: engine.update_cluster(connection, slug, name, description))
        return find_cluster(self._store, slug)

    def all(self) -> list[Cluster]:
        """All clusters, the default one first."""
        return list_clusters(self._store)

    def find(self, cluster_or_slug: ClusterSlugLike) -> Cluster:
        """The cluster with this slug; "" is the default one. Raises NotFoundError."""
        return find_cluster(self._store, to_cluster_slug(cluster_or_slug))

    def delete(self, cluster_or_slug: ClusterSlugLike) -> None:
        """Delete a cluster without queued or running tasks. Raises NotFoundError and ArgumentError."""
        slug = to_cluster_slug(cluster_or_slug)
        self._store.transact(lambda connection: engine.delete_cluster(connection, slug, clock.wall_ns()))
