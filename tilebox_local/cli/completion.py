"""completion: scripts for shells."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click
from click.shell_completion import get_completion_class

from tilebox_local.cli.settings import store_command

if TYPE_CHECKING:
    from tilebox_local.cli.settings import Settings

__all__ = ["COMMANDS"]

_VARIABLE = "_TILEBOX_LOCAL_COMPLETE"


@store_command(
    "completion",
    epilog="""\b
Examples:
  eval "$(tilebox-local completion bash)"            # in ~/.bashrc
  eval "$(tilebox-local completion zsh)"             # in ~/.zshrc
  tilebox-local completion fish > ~/.config/fish/completions/tilebox-local.fish""",
)
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
def completion(settings: Settings, shell: str) -> None:
    """Print a script that completes commands and options in SHELL."""
    found = get_completion_class(shell)
    if found is None:
        raise click.ClickException(f"There is no completion for {shell}.")
    group = click.get_current_context().find_root().command
    settings.print(found(group, {}, "tilebox-local", _VARIABLE).source().rstrip("\n"))


COMMANDS = {"completion": completion}
