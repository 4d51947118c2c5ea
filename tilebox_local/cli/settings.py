"""What all commands have in common: their options, and what follows from them."""

from __future__ import annotations

import functools
import os
import sys
from contextlib import contextmanager
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tilebox_local.client import Client
    from tilebox_local.data import Job

__all__ = ["COMMON_OPTIONS", "Settings", "common_options", "job_argument", "store_command"]

F = TypeVar("F", bound="Callable[..., Any]")


@dataclass(frozen=True)
class Settings:
    """The options that all commands take; None: not given."""

    db: str | None
    json: bool | None
    color: str | None
    no_pager: bool | None
    quiet: bool | None
    verbose: bool | None

    @property
    def path(self) -> str:
        """The store."""
        from tilebox_local.client import DEFAULT_PATH

        return self.db or os.environ.get("TILEBOX_LOCAL_DB") or DEFAULT_PATH

    @contextmanager
    def open(self, *, read_only: bool = True) -> Iterator[Client]:
        """A client of the store, which must exist: looking must not create one.

        Raises StoreOpenError.
        """
        from tilebox_local.client import Client
        from tilebox_local.errors import StoreOpenError

        if not Path(self.path).is_file():
            raise StoreOpenError(f"There is no store at {self.path}.", hint="Name one with --db.")
        with Client(self.path, read_only=read_only) as client:
            yield client

    @property
    def has_color(self) -> bool:
        """Whether stdout gets colours: --color, else NO_COLOR and FORCE_COLOR, else a terminal that can show them."""
        if self.color in ("always", "never"):
            return self.color == "always"
        if os.environ.get("NO_COLOR"):
            return False
        if os.environ.get("FORCE_COLOR") or os.environ.get("CLICOLOR_FORCE") not in (None, "", "0"):
            return True
        return sys.stdout.isatty() and os.environ.get("TERM") != "dumb" and os.environ.get("CLICOLOR") != "0"

    def say(self, message: str) -> None:
        """A message for people, on stderr; not with --quiet."""
        if not self.quiet:
            click.echo(message, err=True)

    def print(self, text: str) -> None:
        """Data on stdout: through a pager if it is longer than the screen."""
        if sys.stdout.isatty() and not self.no_pager and os.environ.get("TERM") != "dumb":
            import shutil

            if text.count("\n") + 1 >= shutil.get_terminal_size().lines:
                os.environ.setdefault("LESS", "FRX")
                click.echo_via_pager(text, color=self.has_color)
                return
        click.echo(text, color=self.has_color)


COMMON_OPTIONS = tuple(field.name for field in fields(Settings))

_OPTIONS = (
    click.option("--db", metavar="FILE", help="The store; default $TILEBOX_LOCAL_DB, else tilebox.db."),
    click.option("--json", is_flag=True, default=None, help="Print JSON, with the columns of the SQL views as keys."),
    click.option("--color", type=click.Choice(["auto", "always", "never"]), help="Colours; default auto."),
    click.option("--no-pager", is_flag=True, default=None, help="Never use a pager."),
    click.option("-q", "--quiet", is_flag=True, default=None, help="No messages on stderr but errors."),
    click.option("-v", "--verbose", is_flag=True, default=None, help="With an error, show where it came from."),
)


def common_options(function: F) -> F:
    """Add the options that all commands take."""
    for option in reversed(_OPTIONS):
        function = option(function)
    return function


def store_command(name: str, **options: Any) -> Callable[[Callable[..., Any]], click.Command]:
    """Make a command of a function, which gets Settings first: options after the command win over those before it."""

    def decorate(function: Callable[..., Any]) -> click.Command:
        def call(**arguments: Any) -> Any:
            context = click.get_current_context()
            own = {key: value for key in COMMON_OPTIONS if (value := arguments.pop(key)) is not None}
            settings = context.find_object(Settings) or Settings(*[None] * len(COMMON_OPTIONS))
            context.obj = replace(settings, **own)
            return function(context.obj, **arguments)

        functools.update_wrapper(call, function)  # the options that were declared before, and the help text
        make: Callable[[Callable[..., Any]], click.Command] = click.command(name, cls=click.Command, **options)
        return make(common_options(call))

    return decorate


def job_argument(function: F) -> F:
    """Add the argument JOB; default: the newest job."""
    return click.argument("job", default="latest", metavar="[JOB]")(function)


def find_job(client: Client, text: str) -> Job:
    """The job that JOB stands for. Raises NotFoundError, and ArgumentError if it could be several."""
    from uuid import UUID

    from tilebox_local.query.named_jobs import find_job_id

    return client.jobs().find(UUID(find_job_id(client._store, text)))
