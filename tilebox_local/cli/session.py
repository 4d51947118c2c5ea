"""What all commands share: the options of every command, and the Session that they fill."""

from __future__ import annotations

import os
import sys
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from tilebox_local.client import Client

__all__ = ["Command", "Session", "command", "common_options", "job_argument"]

_F = TypeVar("_F", bound="Callable[..., Any]")


@dataclass
class Session:
    """The options that every command has, on either side of its name; the later one wins."""

    db: str | None = None
    as_json: bool = False
    color: str = "auto"
    use_pager: bool = True
    is_quiet: bool = False
    is_verbose: bool = False

    @property
    def path(self) -> str:
        """Where the store is."""
        return self.db or os.environ.get("TILEBOX_LOCAL_DB") or "tilebox.db"

    @contextmanager
    def look(self) -> Iterator[Client]:
        """A client that only reads; looking never creates a store."""
        self._check_exists()
        from tilebox_local.client import Client

        with Client(self.path, read_only=True) as client:
            yield client

    @contextmanager
    def change(self, *, creates: bool = False) -> Iterator[Client]:
        """A client that may write; `creates`: also if there is no store yet."""
        if not creates:
            self._check_exists()
        from tilebox_local.client import Client

        with Client(self.path) as client:
            yield client

    def _check_exists(self) -> None:
        if not Path(self.path).expanduser().is_file():
            from tilebox_local.errors import StoreOpenError

            raise StoreOpenError(f"there is no store at {self.path}; name one with --db.")

    def say(self, message: str) -> None:
        """A message on stderr, unless --quiet."""
        if not self.is_quiet:
            from tilebox_local.formatting.text import visible

            sys.stderr.write(f"{visible(message, keep_newlines=True)}\n")


class Command(click.Command):
    """A command whose help ends with examples. A `#` in an example begins its comment."""

    def __init__(self, *arguments: Any, examples: Sequence[str] = (), **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.examples = tuple(examples)

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """The examples, as they are typed."""
        if self.examples:
            with formatter.section("Examples"):
                for example in self.examples:
                    formatter.write(f"{' ' * formatter.current_indent}{example}\n")
        super().format_epilog(ctx, formatter)


def _keep(ctx: click.Context, parameter: click.Parameter, value: Any) -> None:
    """Keep what was given in the Session; what was not leaves it as the options before the command have it."""
    session = ctx.ensure_object(Session)
    if value is None or value is False:
        return
    if parameter.name == "no_pager":
        session.use_pager = False
    else:
        setattr(session, parameter.name or "", value)


def common_options(*, with_json: bool) -> list[click.Parameter]:
    """The options of every command. `with_json`: of one that prints data."""
    shared: dict[str, Any] = {"expose_value": False, "callback": _keep}
    colors = click.Choice(["auto", "always", "never"])
    options = [
        click.Option(
            ["--db", "db"], metavar="FILE", help="The store; default $TILEBOX_LOCAL_DB, else tilebox.db here.", **shared
        ),
        click.Option(["--json", "as_json"], is_flag=True, help="Print JSON, with the columns of the views.", **shared),
        click.Option(["--color"], type=colors, help="Colours; auto: on a terminal, unless NO_COLOR is set.", **shared),
        click.Option(["--no-pager"], is_flag=True, help="Never show long output through $PAGER.", **shared),
        click.Option(["-q", "--quiet", "is_quiet"], is_flag=True, help="No messages but errors.", **shared),
        click.Option(
            ["-v", "--verbose", "is_verbose"], is_flag=True, help="Show where an unexpected error comes from.", **shared
        ),
    ]
    return [option for option in options if with_json or option.name != "as_json"]


def command(
    name: str, *, examples: Sequence[str], prints_data: bool = True, **options: Any
) -> Callable[[Callable[..., int | None]], Command]:
    """Make a command of a function, which gets the Session and its own options; see the package's docstring."""

    def make(function: Callable[..., int | None]) -> Command:
        made = click.command(name, cls=Command, examples=examples, **options)(click.pass_obj(function))
        made.params += common_options(with_json=prints_data)
        return made

    return make


def job_argument(default: str | None = "latest") -> Callable[[_F], _F]:
    """The argument JOB; None: it must be given."""
    if default is None:
        return click.argument("job", metavar="JOB")
    return click.argument("job", metavar="[JOB]", default=default)
