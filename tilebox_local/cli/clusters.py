"""`clusters`: list, create, delete."""

from __future__ import annotations

import click

from tilebox_local.cli.session import Session, command, common_options

__all__ = ["clusters"]


@click.group("clusters", no_args_is_help=True, params=common_options(with_json=True))
def clusters() -> None:
    """List, create and delete clusters."""


@command("list", examples=["tilebox-local clusters list", "tilebox-local clusters list --json"])
def list_them(session: Session) -> None:
    """List the clusters, the default one first."""
    from tilebox_local.cli.output import Column, show_rows

    with session.look() as client:
        rows = [
            {"slug": one.slug, "name": one.display_name, "description": one.description, "deletable": one.deletable}
            for one in client.clusters().all()
        ]
    show_rows(session, rows, [Column("slug"), Column("name"), Column("description")])


@command("create", examples=["tilebox-local clusters create 'Large machines' --slug large"])
@click.argument("name", metavar="NAME")
@click.option("--slug", metavar="SLUG", help="Its key; default: made from the name.")
@click.option("--description", metavar="TEXT")
def create(session: Session, name: str, slug: str | None, description: str | None) -> None:
    """Create a cluster, and print its slug."""
    from tilebox_local.cli.output import write_json, write_line

    with session.change(creates=True) as client:
        made = client.clusters().create(name, description, slug)
    if session.as_json:
        write_json({"slug": made.slug, "name": made.display_name, "description": made.description})
    else:
        write_line(made.slug)


@command("delete", examples=["tilebox-local clusters delete old"], prints_data=False)
@click.argument("slug", metavar="SLUG")
def delete(session: Session, slug: str) -> None:
    """Delete a cluster without queued or running tasks."""
    with session.change() as client:
        client.clusters().delete(slug)
    session.say(f"Cluster {slug} is deleted.")


for _command in (list_them, create, delete):
    clusters.add_command(_command)
