"""Run a command: what it raises becomes one line on stderr and an exit code."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING

import click

from tilebox_local.cli.registry import OutputClosedError
from tilebox_local.cli.session import Session

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["FAILED", "INTERRUPTED", "NOT_FOUND", "OK", "STORE", "TIMED_OUT", "UNEXPECTED", "USAGE", "run_group"]

OK, FAILED, USAGE, STORE, NOT_FOUND, UNEXPECTED, TIMED_OUT, INTERRUPTED = 0, 1, 2, 3, 4, 70, 124, 130


def run_group(group: click.Group, arguments: Sequence[str] | None) -> int:
    """Run a group with these arguments (None: those of the process); the exit code."""
    session = Session()
    try:
        code = group.main(args=arguments, prog_name="tilebox-local", standalone_mode=False, obj=session)
        sys.stdout.flush()
    except click.UsageError as error:
        return _complain(USAGE, f"{error.format_message()}{_where_to_look(error)}")
    except click.ClickException as error:
        return _complain(USAGE, error.format_message())
    except click.Abort:
        return INTERRUPTED
    except SystemExit as error:  # of click's completion, and of tasks
        return error.code if isinstance(error.code, int) else OK if error.code is None else FAILED
    except (BrokenPipeError, OutputClosedError):  # `tilebox-local jobs | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return OK
    except Exception as error:  # noqa: BLE001 -- whoever types a command gets a line, not a stack trace
        return _explain(error, is_verbose=session.is_verbose)
    return code if isinstance(code, int) else OK


def _explain(error: Exception, *, is_verbose: bool) -> int:
    from tilebox_local.errors import (
        ArgumentError,
        FlushTimeoutError,
        NotFoundError,
        StoreError,
        TargetImportError,
    )

    for kind, code in (
        (NotFoundError, NOT_FOUND),
        ((ArgumentError, TargetImportError), USAGE),
        ((StoreError, FlushTimeoutError), STORE),
        (OSError, USAGE),
    ):
        if isinstance(error, kind):
            return _complain(code, str(error))
    if is_verbose:
        import traceback

        traceback.print_exception(error)
        return UNEXPECTED
    return _complain(UNEXPECTED, f"unexpected {type(error).__name__}: {error}. Run it again with -v to see where.")


def _complain(code: int, message: str) -> int:
    from tilebox_local.formatting.text import visible

    sys.stderr.write(f"tilebox-local: {visible(message, keep_newlines=True)}\n")
    return code


def _where_to_look(error: click.UsageError) -> str:
    return f" Try `{error.ctx.command_path} --help`." if error.ctx is not None else ""
