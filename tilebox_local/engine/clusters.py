"""Clusters: create, change, delete, resolve."""

from __future__ import annotations

import re
import secrets
from typing import TYPE_CHECKING

from tilebox_local.catalog import run, value
from tilebox_local.errors import ArgumentError, NotFoundError

if TYPE_CHECKING:
    import apsw

__all__ = ["DEFAULT_CLUSTER_SLUG", "cluster_no", "create_cluster", "delete_cluster", "update_cluster"]

DEFAULT_CLUSTER_SLUG = "default"
_SLUG = re.compile(r"[A-Za-z0-9-]{1,100}")
_SUFFIX = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789"
_MAX_NAME_CHARS = 100
_MAX_DESCRIPTION_CHARS = 50_000


def cluster_no(connection: apsw.Connection, slug: str) -> int:
    """Row of a cluster; "" is the default cluster. Raises NotFoundError."""
    number: int | None = value(connection, "find_cluster_no", (slug or DEFAULT_CLUSTER_SLUG,))
    if number is None:
        hint = "`tilebox-local clusters`, or client.clusters(), lists those that exist, and creates new ones."
        raise NotFoundError("cluster", slug, hint=hint)
    return number


def create_cluster(connection: apsw.Connection, name: str, description: str | None, slug: str | None) -> str:
    """Create a cluster and return its slug: the given one, else made from the name. Raises ArgumentError."""
    _check_texts(name, description)
    if slug is None or slug == "":
        stem = re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")[:80] or "cluster"
        slug = f"{stem}-{''.join(secrets.choice(_SUFFIX) for _ in range(14))}"
    elif not _SLUG.fullmatch(slug):
        raise ArgumentError(f"{slug!r} is no cluster slug: use 1 to 100 of the characters A-Z, a-z, 0-9 and '-'.")
    if value(connection, "insert_cluster", (slug, name, description or None)) is None:
        raise ArgumentError(f"A cluster with the slug {slug!r} exists already.")
    return slug


def update_cluster(connection: apsw.Connection, slug: str, name: str | None, description: str | None) -> None:
    """Change what is not None; an empty description removes it. Raises NotFoundError and ArgumentError."""
    cluster_no(connection, slug)
    _check_texts("x" if name is None else name, description)
    run(
        connection,
        "update_cluster",
        {
            "slug": slug or DEFAULT_CLUSTER_SLUG,
            "name": name,
            "changes_description": description is not None,
            "description": description,
        },
    )


def delete_cluster(connection: apsw.Connection, slug: str, now_ns: int) -> None:
    """Delete a cluster that has no queued or running task and is not the default one. Raises ArgumentError."""
    number = cluster_no(connection, slug)
    if value(connection, "cluster_has_open_tasks", {"cluster_no": number}):
        raise ArgumentError(f"The cluster {slug!r} has queued or running tasks; run or cancel their jobs first.")
    run(connection, "delete_cluster", (now_ns, slug))
    if connection.changes() == 0:
        raise ArgumentError(f"The cluster {slug or DEFAULT_CLUSTER_SLUG!r} cannot be deleted: it is the default one.")


def _check_texts(name: str, description: str | None) -> None:
    if not 1 <= len(name) <= _MAX_NAME_CHARS:
        raise ArgumentError(f"A cluster name has 1 to {_MAX_NAME_CHARS} characters, not {len(name)}.")
    if description is not None and len(description) > _MAX_DESCRIPTION_CHARS:
        raise ArgumentError(
            f"A cluster description has at most {_MAX_DESCRIPTION_CHARS} characters, not {len(description)}."
        )
