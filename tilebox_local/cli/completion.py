"""`completion`: the script that completes command lines in a shell."""

from __future__ import annotations

import click

from tilebox_local.cli.session import Session, command

__all__ = ["completion"]


@command(
    "completion",
    examples=[
        'tilebox-local completion bash  # in ~/.bashrc: eval "$(tilebox-local completion bash)"',
        'tilebox-local completion zsh   # in ~/.zshrc:  eval "$(tilebox-local completion zsh)"',
        "tilebox-local completion fish  # > ~/.config/fish/completions/tilebox-local.fish",
    ],
    prints_data=False,
)
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
def completion(session: Session, shell: str) -> None:  # noqa: ARG001
    """Print the completion script of a shell."""
    from click.shell_completion import get_completion_class

    from tilebox_local.cli.output import write_line

    root = click.get_current_context().find_root()
    kind = get_completion_class(shell)
    assert kind is not None  # noqa: S101 -- click has all three
    write_line(kind(root.command, {}, "tilebox-local", "_TILEBOX_LOCAL_COMPLETE").source().strip("\n"))
