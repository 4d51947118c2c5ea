"""clusters: list, create and delete them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from tilebox_local.cli.settings import store_command
from tilebox_local.cli.tables import Column, show_json, show_rows

if TYPE_CHECKING:
    from tilebox_local.cli.settings import Settings
    from tilebox_local.data import Cluster

__all__ = ["COMMANDS"]


@click.group(
    "clusters",
    no_args_is_help=True,
    epilog="""\b
Examples:
  tilebox-local clusters list
  tilebox-local clusters create "GPU machines" --slug gpu
  tilebox-local clusters delete gpu""",
)
def clusters() -> None:
    """List, create and delete clusters: named pools that tasks are assigned to and runners serve."""


def _row(cluster: Cluster) -> dict[str, Any]:
    return {
        "slug": cluster.slug,
        "name": cluster.display_name,
        "description": cluster.description,
        "deletable": cluster.deletable,
    }


@store_command("list")
def list_(settings: Settings) -> None:
    """List the clusters, the default one first."""
    with settings.open() as client:
        rows = [_row(cluster) for cluster in client.clusters().all()]
    columns = [Column("slug", "slug", "word"), Column("name", "name"), Column("description", "description", "prose")]
    show_rows(settings, rows, columns, empty="No clusters.")


@store_command("create")
@click.argument("name")
@click.option("--slug", metavar="SLUG", help="Its key: letters, digits and -; default: made of the name.")
@click.option("--description", metavar="TEXT", help="What it is for.")
def create(settings: Settings, name: str, slug: str | None, description: str | None) -> None:
    """Create a cluster named NAME, and print its slug."""
    with settings.open(read_only=False) as client:
        made = client.clusters().create(name, description, slug)
    if settings.json:
        show_json(settings, _row(made))
    else:
        settings.print(made.slug)


@store_command("delete")
@click.argument("slug")
def delete(settings: Settings, slug: str) -> None:
    """Delete the cluster SLUG, which must have no tasks to do."""
    with settings.open(read_only=False) as client:
        client.clusters().delete(slug)
    settings.say(f"Cluster {slug} is deleted.")


for _name, _command in (("list", list_), ("create", create), ("delete", delete)):
    clusters.add_command(_command, _name)

COMMANDS = {"clusters": clusters}
