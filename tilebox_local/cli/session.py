"""What all commands share: the options of every command, and the Session that they fill."""

from __future__ import annotations

import contextlib
import os
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from click.shell_completion import CompletionItem

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
        """Where the store is. Raises UsageError."""
        if self.db in ("", ":memory:"):  # an unset variable; a store that nobody would ever see
            raise click.UsageError(f"--db is the path of a file, not {self.db!r}.")
        return self.db or os.environ.get("TILEBOX_LOCAL_DB") or "tilebox.db"

    @contextlib.contextmanager
    def look(self) -> Iterator[Client]:
        """A client that only reads; looking never creates a store."""
        self._check_exists()
        from tilebox_local.client import Client

        with Client(self.path, read_only=True) as client:
            yield client

    @contextlib.contextmanager
    def change(self, *, creates: bool = False) -> Iterator[Client]:
        """A client that may write; `creates`: also if there is no store yet."""
        if not creates:
            self._check_exists(not_empty=True)
        from tilebox_local.cli.signals import ends_when_told
        from tilebox_local.client import Client

        with ends_when_told(), Client(self.path) as client:
            yield client

    def _check_exists(self, *, not_empty: bool = False) -> None:
        from tilebox_local.errors import NotATileboxStoreError, StoreOpenError

        file = Path(self.path).expanduser()
        if file.is_dir():
            raise StoreOpenError(f"{self.path} is a folder; name the file of a store with --db.")
        if not file.is_file():
            raise StoreOpenError(f"there is no store at {self.path}; name one with --db.")
        if not_empty and file.stat().st_size == 0:  # opening it would make a store of it
            raise NotATileboxStoreError(f"{self.path} is empty, and no store.")

    def say(self, message: str) -> None:
        """A message on stderr, unless --quiet."""
        if not self.is_quiet:
            from tilebox_local.formatting.text import visible

            sys.stderr.write(f"{visible(message, keep_newlines=True)}\n")


class Command(click.Command):
    """A command whose help ends with examples. A `#` in an example begins its comment."""

    def __init__(self, *arguments: Any, examples: Sequence[str] = (), prints_data: bool = True, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.examples = tuple(examples)
        self.prints_data = prints_data

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command. --json may stand before its name, where it is an option of all of them."""
        if ctx.ensure_object(Session).as_json and not self.prints_data:
            raise click.UsageError(f"'{self.name}' has no JSON to print: leave --json out.", ctx)
        return super().invoke(ctx)

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
            ["--db", "db"],
            type=click.Path(),
            metavar="FILE",
            help="The store; default $TILEBOX_LOCAL_DB, else tilebox.db here.",
            **shared,
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
        settings = {"help_option_names": ["-h", "--help"]}
        made = click.command(
            name, cls=Command, examples=examples, prints_data=prints_data, context_settings=settings, **options
        )(click.pass_obj(function))
        made.params += common_options(with_json=prints_data)
        return made

    return make


def job_argument(default: str | None = "latest") -> Callable[[_F], _F]:
    """The argument JOB; None: it must be given."""
    if default is None:
        return click.argument("job", metavar="JOB", shell_complete=complete_job)
    return click.argument("job", metavar="[JOB]", default=default, shell_complete=complete_job)


def complete_job(ctx: click.Context, parameter: click.Parameter, incomplete: str) -> list[CompletionItem]:  # noqa: ARG001
    """What may stand for JOB when Tab is pressed: `latest`, and ids of the newest jobs with their names as help."""
    from click.shell_completion import CompletionItem

    from tilebox_local.formatting.text import visible
    from tilebox_local.query.listing import list_jobs

    found = [CompletionItem("latest", help="the newest job")]
    with contextlib.suppress(Exception):  # no store: there is nothing to offer, and nobody to tell
        session = ctx.find_object(Session) or Session()
        with session.look() as client:
            rows = list_jobs(client._open_store(), limit=50)
        found += [CompletionItem(row["job_id"], help=f"{row['state']} {visible(row['name'])}") for row in rows]
    return [one for one in found if one.value.startswith(incomplete)]
