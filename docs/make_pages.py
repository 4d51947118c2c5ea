"""Makes the pages that are made of the program: docs/schema.md, and the reference in docs/command-line.md.

`make docs` runs this; tests say if it has been forgotten.
"""

from __future__ import annotations

from copy import copy
from pathlib import Path

import click

from tilebox_local.cli import program
from tilebox_local.cli.registry import COMMANDS
from tilebox_local.cli.session import common_options
from tilebox_local.export.schema_page import schema_page

FOLDER = Path(__file__).parent
WIDTH = 100
MARK = "<!-- From here on made by docs/make_pages.py. -->\n"


def command_line_page() -> str:
    """docs/command-line.md: what stands above the mark, and the help of each command."""
    head, _, _ = (FOLDER / "command-line.md").read_text(encoding="utf-8").partition(MARK)
    parts = [f"{head}{MARK}\n## Options of every command, on either side of its name\n\n```text\n{_common()}\n```\n"]
    context = click.Context(program, info_name="tilebox-local")
    for name in COMMANDS:
        if name != "job":  # its commands are the same as those without it
            parts += _helps(context, name, program.get_command(context, name))
    return "\n".join(parts)


def _common() -> str:
    formatter = click.HelpFormatter(width=WIDTH)
    context = click.Context(program)
    formatter.write_dl([record for one in common_options(with_json=True) if (record := one.get_help_record(context))])
    return formatter.getvalue().rstrip("\n")


def _helps(parent: click.Context, name: str, command: click.Command | None) -> list[str]:
    """The help of a command, and of those below it, without the options of every command."""
    if command is None:
        raise LookupError(name)
    common = {one.name for one in common_options(with_json=True)}
    shown = copy(command)
    shown.params = [one for one in command.params if one.name not in common or one.expose_value]
    context = click.Context(shown, info_name=name, parent=parent, max_content_width=WIDTH, terminal_width=WIDTH)
    title = context.command_path.removeprefix("tilebox-local ")
    parts = [f"{'#' * (2 + title.count(' '))} {title}\n\n```text\n{shown.get_help(context)}\n```\n"]
    if isinstance(command, click.Group):
        for inner in command.list_commands(context):
            parts += _helps(context, inner, command.get_command(context, inner))
    return parts


if __name__ == "__main__":
    (FOLDER / "command-line.md").write_text(command_line_page(), encoding="utf-8")
    (FOLDER / "schema.md").write_text(schema_page(), encoding="utf-8")
