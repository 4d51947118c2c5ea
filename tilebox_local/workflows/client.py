"""The client of workflow releases, a hosted feature: every method raises NotImplementedError."""

# ruff: noqa: ARG002 -- the official signatures
from __future__ import annotations

from typing import TYPE_CHECKING, Any, NoReturn

from tilebox_local.errors import hosted_only

if TYPE_CHECKING:
    from tilebox_local.data import Cluster

__all__ = ["WorkflowClient"]


class WorkflowClient:
    """Stands for the official client of the same name; published workflows are a hosted feature.

    Workflows themselves need none here: submit their first task as a job and run it with a runner.
    """

    def create(self, name: str, summary: str, description: str = "") -> NoReturn:
        """Not available."""
        raise hosted_only(f"The workflow {name!r}")

    def all(self) -> NoReturn:
        """Not available."""
        raise hosted_only("Listing workflows")

    def find(self, workflow_or_slug: Any) -> NoReturn:
        """Not available."""
        raise hosted_only("Finding a workflow")

    def update(
        self,
        workflow_or_slug: Any,
        name: str | None = None,
        summary: str | None = None,
        description: str | None = None,
    ) -> NoReturn:
        """Not available."""
        raise hosted_only("Updating a workflow")

    def delete(self, workflow_or_slug: Any) -> NoReturn:
        """Not available."""
        raise hosted_only("Deleting a workflow")

    def unpublish_release(self, workflow_or_slug: Any, release_or_id: Any) -> NoReturn:
        """Not available."""
        raise hosted_only("Unpublishing a release")

    def deploy_release(
        self,
        workflow_or_slug: Any,
        release_or_id: Any,
        clusters: Cluster | str | list[Cluster | str] | None = None,
    ) -> NoReturn:
        """Not available."""
        raise hosted_only("Deploying a release")

    def undeploy_release(
        self,
        workflow_or_slug: Any,
        release_or_id: Any,
        clusters: Cluster | str | list[Cluster | str] | None = None,
    ) -> NoReturn:
        """Not available."""
        raise hosted_only("Undeploying a release")
